"""When a job runs again. Pure arithmetic; jitter comes in as a number in [0, 1)."""

from __future__ import annotations

from kqs.options import Options

#: an exponential wait is spread over this share of itself, so that jobs that failed together do not return together
JITTER_SHARE = 0.25


def may_retry(options: Options, failures: int) -> bool:
    """Tell whether a job that has now failed `failures` times runs again."""
    return options.retries < 0 or failures <= options.retries


def retry_delay_s(options: Options, failures: int, jitter: float) -> float:
    """Return the wait before the run after failure number `failures` (from 1), in s, at most `max_retry_delay`."""
    if options.backoff == "constant":
        return min(options.retry_delay, options.max_retry_delay)
    wait = options.retry_delay * 2.0 ** min(failures - 1, 60)
    return min(wait, options.max_retry_delay) * (1 - JITTER_SHARE * jitter)


def may_ghost(options: Options, ghosts: int) -> bool:
    """Tell whether a job whose runs have now vanished `ghosts` times runs again."""
    return options.ghosts < 0 or ghosts <= options.ghosts


def ghost_delay_s(options: Options, ghosts: int) -> float:
    """Return the wait after vanished run number `ghosts` (from 1), in s: at once, then ghost_delay, doubling."""
    if ghosts <= 1:
        return 0.0
    return min(options.ghost_delay * 2.0 ** min(ghosts - 2, 60), options.max_retry_delay)
