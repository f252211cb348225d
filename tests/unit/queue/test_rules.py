import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kqs.job import MAX_ERROR_CHARS
from kqs.options import JobFields, Options, PlainJob
from kqs.outcome import Again, Failed, Ok, Outcome
from kqs.queue.rules import Judge, Retention, accept, whole_ms
from kqs.states import State
from tests.support.jobs import NOW, ORDER, a_run

KEEP = Retention(success_s=3600, fail_s=-1)
judge = Judge(KEEP, lambda: 0.0)


def test_a_plain_job_is_ready_at_once_with_its_types_settings() -> None:
    job = accept(PlainJob("mail"), ORDER, "x", Options(prio=7), NOW, None)
    assert (job.prio, job.due_at, job.expire_at, job.options, job.data) == (7, 0.0, None, None, b"null")


def test_a_types_delay_and_expire_hold_for_plain_jobs() -> None:
    job = accept(PlainJob("mail"), ORDER, "x", Options(delay=5, expire=9), NOW, None)
    assert (job.due_at, job.expire_at) == (NOW + 5, NOW + 9)


def test_a_jobs_own_fields_win() -> None:
    fields = JobFields(type="mail", prio="urgent", delay=2, expire=3)
    job = accept(fields, ORDER, "x", Options(delay=5, expire=9, prio=1), NOW, None)
    assert (job.prio, job.due_at, job.expire_at) == (8000, NOW + 2, NOW + 3)


def test_due_and_expiry_count_from_the_clock_and_not_from_the_order() -> None:
    ahead = ORDER + 7200 * 10**6
    plain = accept(PlainJob("mail"), ahead, "x", Options(delay=5, expire=9), NOW, None)
    full = accept(JobFields(type="mail", delay=5, expire=9), ahead, "x", Options(), NOW, None)
    at = accept(JobFields(type="mail", at=NOW + 1), ahead, "x", Options(), NOW, NOW + 1)
    assert [(job.due_at, job.expire_at) for job in (plain, full)] == [(NOW + 5, NOW + 9)] * 2
    assert at.due_at == NOW + 1


def test_a_past_at_is_now() -> None:
    assert accept(JobFields(type="mail", at=1), ORDER, "x", Options(), NOW, 1.0).due_at == 0.0


def test_an_at_to_come_beats_the_types_delay() -> None:
    assert accept(JobFields(type="mail", at=NOW + 60), ORDER, "x", Options(delay=5), NOW, NOW + 60).due_at == NOW + 60


def test_ok_ends_the_job_with_its_result() -> None:
    report = judge.outcome(a_run(), Options(), Ok(b"7"), NOW)
    assert (report.state, report.run_state, report.result, report.drop_at) == (State.SUCCESS, "success", b"7", NOW + 3600)


def test_a_handler_that_asks_to_run_again_costs_no_retry() -> None:
    report = judge.outcome(a_run(failures=2), Options(retries=0), Again(5), NOW)
    assert (report.state, report.due_at, report.failures) == (State.RETRY, NOW + 5, 2)


@pytest.mark.parametrize("delay_s", [1e308, 2e10, -1.0, float("inf"), float("nan")])
def test_a_delay_out_of_bounds_is_a_final_failure(delay_s: float) -> None:
    report = judge.outcome(a_run(), Options(), Again(delay_s), NOW)
    assert (report.state, report.failures) == (State.FAIL, 1)
    assert report.error == f"Again: expected a delay from 0 to 10000000000 s, got {delay_s}"


def test_a_failure_is_retried_after_its_delay() -> None:
    report = judge.outcome(a_run(), Options(retry_delay=30), Failed("no"), NOW)
    assert (report.state, report.due_at, report.failures, report.error) == (State.RETRY, NOW + 30, 1, "no")


def test_a_job_out_of_retries_fails_and_is_kept_for_ever() -> None:
    report = judge.outcome(a_run(failures=2), Options(retries=2), Failed("no"), NOW)
    assert (report.state, report.failures, report.drop_at) == (State.FAIL, 3, None)


def test_a_final_failure_is_not_retried() -> None:
    assert judge.outcome(a_run(), Options(), Failed("no", final=True), NOW).state is State.FAIL


def test_an_expired_job_is_not_retried() -> None:
    run = replace(a_run(), expire_at=NOW)
    assert judge.outcome(run, Options(), Failed("no"), NOW).state is State.FAIL
    assert judge.ghost(run, Options(), NOW, "gone").state is State.FAIL


def test_the_first_ghost_runs_again_at_once() -> None:
    report = judge.ghost(a_run(), Options(), NOW, "gone")
    assert (report.state, report.due_at, report.ghosts, report.failures) == (State.GHOST, 0.0, 1, 0)


def test_a_job_that_always_kills_its_worker_fails_in_the_end() -> None:
    report = judge.ghost(a_run(ghosts=10), Options(), NOW, "gone")
    assert (report.state, report.ghosts, report.error) == (State.FAIL, 11, "gone")


def test_an_interrupted_run_waits_as_long_as_who_gave_it_back_says() -> None:
    report = judge.interrupted(a_run(), NOW, 60.0)
    assert (report.state, report.run_state, report.due_at) == (State.RETRY, "interrupted", NOW + 60)


@pytest.mark.parametrize(("delay_s", "due_at"), [(None, NOW + 30), (5.0, NOW + 5), (0.0, 0.0), (1e10, NOW + 1e10)])
def test_a_failure_may_say_itself_when_to_retry(delay_s: float | None, due_at: float) -> None:
    report = judge.outcome(a_run(), Options(retry_delay=30), Failed("no", delay_s=delay_s), NOW)
    assert (report.state, report.due_at, report.failures) == (State.RETRY, due_at, 1)


def test_a_failure_that_says_when_to_retry_has_no_more_retries_than_others() -> None:
    assert judge.outcome(a_run(failures=2), Options(retries=2), Failed("no", delay_s=1), NOW).state is State.FAIL
    assert judge.outcome(a_run(), Options(), Failed("no", final=True, delay_s=1), NOW).state is State.FAIL


def test_an_interrupted_run_is_free_and_waits_no_time() -> None:
    report = judge.interrupted(a_run(failures=1, ghosts=2), NOW)
    assert (report.state, report.due_at) == (State.RETRY, 0.0)
    assert (report.failures, report.ghosts, report.interrupted) == (1, 2, 1)


@pytest.mark.parametrize(("keep", "drop_at"), [(0, NOW), (-1, None), (5, NOW + 5), (None, NOW + 3600)])
def test_a_jobs_own_keep_beats_the_stores(keep: float | None, drop_at: float | None) -> None:
    assert judge.outcome(a_run(), Options(keep=keep), Ok(), NOW).drop_at == drop_at


def test_an_endless_reason_is_cut() -> None:
    report = judge.outcome(a_run(), Options(), Failed("x" * 10**6), NOW)
    assert report.error is not None
    assert len(report.error) == MAX_ERROR_CHARS


OUTCOMES = [Ok(), Again(5), Again(), Failed("no"), Failed("no", final=True)]


@given(st.floats(0, 4e9), st.floats(0, 4e9), st.sampled_from([*OUTCOMES, "ghost", "interrupted"]))
def test_no_run_ends_before_it_began_and_none_waits_longer_for_that(
    started_at: float, clock: float, way: Outcome | str
) -> None:
    run, now = replace(a_run(), started_at=started_at), whole_ms(clock)
    if way == "ghost":
        report = judge.ghost(run, Options(), now, "gone")
    elif way == "interrupted":
        report = judge.interrupted(run, now)
    else:
        assert not isinstance(way, str)
        report = judge.outcome(run, Options(), way, now)
    assert report.ended_at == max(now, started_at)
    assert report.due_at in (0.0, now + 5, now + 30)
    assert report.drop_at in (None, now + 3600)


def test_a_claim_that_is_given_back_has_not_happened() -> None:
    run = replace(a_run(failures=1, interrupted=2), waited_as=State.DELAYED)
    report = judge.unclaimed(run, NOW)
    assert (report.state, report.has_begun, report.failures, report.interrupted) == (State.DELAYED, False, 1, 2)


def test_a_claimed_job_whose_time_is_over_ends_without_a_run() -> None:
    report = judge.expired(a_run(), Options(keep=5), NOW)
    assert (report.state, report.has_begun, report.error, report.drop_at) == (State.FAIL, False, "expired", NOW + 5)
