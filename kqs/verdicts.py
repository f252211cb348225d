"""What a handler may raise to say how its run ended; `kqs.Again` and `kqs.Fail` to its author."""

from __future__ import annotations

#: the longest wait a handler may ask for, as of a job's own `delay`
MAX_DELAY_S = 10**10


def delay_in_seconds(delay: object) -> float | None:
    """Return a delay as a plain float, or None for none. Raises: ValueError: it is no number of seconds that a job may wait."""
    if delay is None:
        return None
    if isinstance(delay, (int, float)) and not isinstance(delay, bool) and 0 <= delay <= MAX_DELAY_S:
        return float(delay)
    raise ValueError(f"delay: expected a number of seconds from 0 to {MAX_DELAY_S}, got {delay!r:.100}")


class Again(Exception):  # noqa: N818 - a verdict is no error, and is written `raise kqs.Again`
    """Run the job again, at no cost: neither `failures` nor any limit counts it.

    delay: not before this many seconds from now, an int or float up to MAX_DELAY_S; None: at once.
    Raises: ValueError: it is no such number.
    """

    def __init__(self, delay: float | None = None) -> None:
        delay_in_seconds(delay)
        super().__init__(delay)
        self.delay = delay


class Fail(Exception):  # noqa: N818 - as Again
    """The run failed, for `reason`. final: no retry can help; else the job's policy decides."""

    def __init__(self, reason: str, final: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.final = final
