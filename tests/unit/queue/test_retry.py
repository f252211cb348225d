import pytest

from kqs.options import Options
from kqs.queue.retry import JITTER_SHARE, ghost_delay_s, may_ghost, may_retry, retry_delay_s


@pytest.mark.parametrize(("retries", "failures", "again"), [(-1, 10**6, True), (0, 1, False), (2, 2, True), (2, 3, False)])
def test_a_job_runs_once_and_then_as_often_as_retries_says(retries: int, failures: int, again: bool) -> None:
    assert may_retry(Options(retries=retries), failures) is again


def test_a_constant_backoff_waits_the_same_each_time() -> None:
    assert [retry_delay_s(Options(retry_delay=5), n, 0.9) for n in (1, 2, 9)] == [5, 5, 5]


def test_an_exponential_backoff_doubles_up_to_the_cap() -> None:
    options = Options(retry_delay=5, backoff="exponential", max_retry_delay=30)
    assert [retry_delay_s(options, n, 0.0) for n in (1, 2, 3, 4, 10_000)] == [5, 10, 20, 30, 30]


def test_jitter_only_shortens_and_only_by_its_share() -> None:
    options = Options(retry_delay=8, backoff="exponential")
    assert 8 * (1 - JITTER_SHARE) < retry_delay_s(options, 1, 0.999) < 8


@pytest.mark.parametrize(("ghosts", "seen", "again"), [(10, 10, True), (10, 11, False), (-1, 10**6, True), (0, 1, False)])
def test_a_vanished_run_is_repeated_as_often_as_ghosts_says(ghosts: int, seen: int, again: bool) -> None:
    assert may_ghost(Options(ghosts=ghosts), seen) is again


def test_the_first_ghost_runs_at_once_and_the_next_ones_wait_ever_longer() -> None:
    assert [ghost_delay_s(Options(ghost_delay=1), n) for n in (1, 2, 3, 4)] == [0, 1, 2, 4]
    assert ghost_delay_s(Options(ghost_delay=1), 500) == Options().max_retry_delay
