from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from kqs.errors import CallError
from kqs.options import JobFields
from kqs.wire.jobs import decode_jobs
from kqs.wire.order import MOST_TIED, asked_of, askers_of, batch_text, is_batch, may_be_tied
from kqs.wire.replayed import replay_jobs
from kqs.wire.steps import finish


def asked(*jobs: Mapping[str, object], before: int = 0) -> tuple[list[str], list[str]]:
    text = msgspec.json.encode([{"type": "a", **job} for job in jobs])
    return finish(asked_of(decode_jobs(text), text, is_array=True, before=before))


def refusal(*jobs: Mapping[str, object], before: int = 0) -> str:
    with pytest.raises(CallError) as caught:
        asked(*jobs, before=before)
    return str(caught.value)


def test_jobs_that_wait_for_nobody_ask_nothing() -> None:
    assert asked({}, {"prio": 1}) == ([], [])


def test_many_jobs_are_looked_at_in_steps() -> None:
    jobs = decode_jobs(b"[%b]" % b",".join([b'{"type":"a","batch":"b","id":"%d"}' % number for number in range(3500)]))
    assert sum(1 for _ in asked_of(jobs, b"", is_array=True)) == sum(1 for _ in askers_of(jobs, 0)) == 3
    tied = [*jobs, *decode_jobs(b'{"type":"a","after":["x"]}')]
    assert sum(1 for _ in asked_of(tied, b'"after"', is_array=True)) == 6
    assert finish(asked_of(tied, b'"after"', is_array=True)) == (["x"], ["b"])


def test_ids_of_others_are_asked_about_once_and_those_of_the_array_not() -> None:
    jobs: list[dict[str, object]] = [{"after": ["x", "y", "own"], "batch": "b"}, {"after": ["x"], "batch": "b"}, {"id": "own"}]
    assert asked(*jobs) == (["x", "y"], ["b"])


def test_positions_count_from_behind_the_then() -> None:
    assert asked({"after": [0]}, {}, {"after": [0]}, before=1) == ([], [])
    assert refusal({}, {"after": [1]}, before=1) == "job 1: after: expected positions from 0 to 0, got 1"


def test_position_in_no_array_is_refused() -> None:
    text = b'{"type":"a","after":[0]}'
    with pytest.raises(CallError, match="got the position 0 in no array"):
        finish(asked_of(decode_jobs(text), text, is_array=False))


def test_a_job_cannot_wait_for_itself() -> None:
    assert refusal({"after": [0]}) == refusal({"id": "x", "after": ["x"]}) == "job 0: after: the job would wait for itself"


def test_a_member_cannot_wait_for_its_own_batch() -> None:
    words = "after: the job would wait for its own batch, which waits for it"
    assert refusal({"id": "b"}, {}, {"after": ["b"]}, before=1) == f"job 2: {words}"
    assert refusal({"after": ["x", "b"], "batch": "b"}) == f"job 0: {words}"
    assert asked({"after": ["m"]}, {"id": "m"}, before=1) == ([], [])


def test_who_asks_is_named_if_all_who_do_have_ids() -> None:
    def askers(*jobs: Mapping[str, object], before: int = 0) -> list[str]:
        return finish(askers_of(decode_jobs(msgspec.json.encode([{"type": "a", **job} for job in jobs])), before))

    assert askers({"id": "x", "after": ["y"]}, {"id": "z"}, {"id": "m", "batch": "b"}) == ["x", "m"]
    assert askers({"id": "x", "after": ["y"]}, {"batch": "b"}) == []
    assert askers({"id": "then"}, {"after": ["y"]}, before=1) == ["then"]
    assert askers({}, {"id": "x", "after": ["y"]}, before=1) == []


@pytest.mark.parametrize("length", [2, 3, 30, 3000])
def test_cycles_are_refused_and_named(length: int) -> None:
    jobs = [{"after": [(index + 1) % length]} for index in range(length)]
    message = refusal(*jobs)
    assert message.startswith("job 0: after: the jobs 0 → 1")
    assert len(message) < 300


def test_ways_that_meet_again_are_no_cycle() -> None:
    assert asked({}, {"after": [0]}, {"after": [0]}, {"after": [1, 2, 1]}, {"after": [3, 0]}) == ([], [])


def test_jobs_may_wait_for_later_ones() -> None:
    assert asked({"after": [1]}, {"after": [2]}, {}) == ([], [])


def test_what_is_stored_at_once_is_bounded() -> None:
    assert "at most 10000 jobs" in refusal(*[{"after": ["x"] * 1000}] * 11)
    assert "at most 4000 jobs" in refusal(*[{}] * MOST_TIED, {"after": [0]})


def test_name_with_an_escape_is_refused() -> None:
    text = rb'[{"type":"a"},{"type":"a","aft\u0065r":[0]}]'
    with pytest.raises(CallError, match="without escapes"):
        finish(asked_of(decode_jobs(text), text, is_array=True))


def test_record_of_a_batch_says_how_many_are_its_members() -> None:
    text = batch_text(b'[{"type":"then"},{"type":"a"}]', 1)
    assert text == b'[{"members":1,"type":"then"},{"type":"a"}]'
    assert is_batch(text)
    assert not is_batch(b'[{"type":"then"}]')
    then, _ = replay_jobs(text)
    assert isinstance(then, JobFields)
    assert then.members == 1


def test_record_may_be_tied_if_it_says_after() -> None:
    assert may_be_tied(b'[{"type":"a","after":[1]},{"type":"b"}]')
    assert not may_be_tied(b'[{"type":"a"}]')


def test_job_of_a_version_with_other_bounds_keeps_what_it_waits_for() -> None:
    (job,) = replay_jobs(b'{"type":"a","after":["x"],"after_any_end":true,"batch":7,"prio":-1}')
    assert isinstance(job, JobFields)
    assert (job.after, job.after_any_end, job.batch) == (["x"], True, None)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"after": ["a b"]}, "after: expected up to 1000 ids"),
        ({"after": [""]}, "after: expected up to 1000 ids"),
        ({"after": [1.5]}, "after: expected up to 1000 ids"),
        ({"batch": "a b"}, "batch: expected 1 to 200"),
        ({"after_any_end": True}, "after_any_end: expected after beside it, got none"),
        ({"members": 1}, 'unknown field "members"'),
    ],
)
def test_what_nobody_can_wait_for_is_refused(fields: dict[str, object], words: str) -> None:
    assert words in refusal(fields)
