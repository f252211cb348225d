"""Each reason why a job is where it is, and which comes first."""

from __future__ import annotations

from typing import Any

import pytest

from kqs.job import JobRecord, RunRecord
from kqs.queue.limits import Reached
from kqs.states import State
from kqs.store.base import DAMAGED, Holder
from kqs.views.explain import Seen, Turn, explained, is_ready, journaled

NOW = 1_700_000_000.0


def a_record(state: State = State.NEW, **changes: Any) -> JobRecord:
    fields: dict[str, Any] = {
        "order": 1,
        "id": "a",
        "type": "mail",
        "state": state,
        "prio": 10_000,
        "due_at": 0.0,
        "expire_at": None,
        "data": b"1",
        "options": None,
        "attempt": 0,
        "failures": 0,
        "ghosts": 0,
        "interrupted": 0,
        "accepted_at": NOW,
        "ended_at": None,
        "drop_at": None,
        "result": None,
        "error": None,
        "runs": [],
    }
    return JobRecord(**(fields | changes))


def a_run(state: str = "fail", error: str | None = "boom", *, ended_at: float = NOW - 90) -> RunRecord:
    return RunRecord(1, "w:1", NOW - 99, ended_at, state, error)


ENDED = {"ended_at": NOW - 90}
TABLE = [
    (
        a_record(State.SUCCESS, **ENDED),
        {},
        "success",
        "It succeeded at 2023-11-14T22:11:50.000Z, 90 s ago.",
        {"ended_at": NOW - 90},
    ),
    (a_record(State.CANCELLED, **ENDED), {}, "cancelled", "It was cancelled at 2023-11-14T22:11:50.000Z, 90 s ago.", {}),
    (a_record(State.CANCELLED), {}, "cancelled", "It was cancelled at an unknown time.", {"ended_at": None}),
    (
        a_record(State.FAIL, error="boom", failures=1, runs=[a_run()], **ENDED),
        {},
        "failed",
        'It failed for good at 2023-11-14T22:11:50.000Z, 90 s ago, after 1 failure, the last one: "boom".',
        {"error": "boom", "failures": 1},
    ),
    (
        a_record(State.FAIL, error="gone", ghosts=11, runs=[a_run("ghost", "gone")], **ENDED),
        {},
        "ghosted_out",
        'It failed for good at 2023-11-14T22:11:50.000Z, 90 s ago: 11 runs ended without a report, the last one: "gone".',
        {"ghosts": 11},
    ),
    (
        a_record(State.FAIL, error="expired", **ENDED),
        {},
        "expired",
        "It expired at 2023-11-14T22:11:50.000Z, 90 s ago, before it had succeeded.",
        {"error": "expired"},
    ),
    (
        a_record(State.FAIL, error="expired", failures=1, runs=[a_run("fail", "expired")], **ENDED),
        {},
        "failed",
        'It failed for good at 2023-11-14T22:11:50.000Z, 90 s ago, after 1 failure, the last one: "expired".',
        {"error": "expired"},
    ),
    (
        a_record(State.FAIL, error="expired", failures=1, runs=[a_run(ended_at=NOW - 95)], **ENDED),
        {},
        "expired",
        "It expired at 2023-11-14T22:11:50.000Z, 90 s ago, before it had succeeded.",
        {"error": "expired", "failures": 1},
    ),
    (
        a_record(State.FAIL, error="job b has failed", runs=[a_run("ghost", "gone", ended_at=NOW - 95)], **ENDED),
        {},
        "failed",
        'It failed for good at 2023-11-14T22:11:50.000Z, 90 s ago: "job b has failed".',
        {"error": "job b has failed"},
    ),
    (
        a_record(State.FAIL, error=DAMAGED, **ENDED),
        {},
        "damaged",
        f"It failed at 2023-11-14T22:11:50.000Z, 90 s ago, since {DAMAGED}.",
        {},
    ),
    (
        a_record(State.PROCESSING, attempt=3, runs=[RunRecord(3, "w:1", NOW - 5)]),
        {"suspended_at": 1.0},
        "running",
        "It has been running since 2023-11-14T22:13:15.000Z on w:1, for 5 s; this is attempt 3.",
        {"since": NOW - 5, "worker": "w:1", "attempt": 3},
    ),
    (
        a_record(State.PROCESSING),
        {},
        "running",
        "It has been running since an unknown time on None; this is attempt 0.",
        {"since": None},
    ),
    (
        a_record(State.PROCESSING, attempt=3, runs=[RunRecord(3, "w:1", NOW - 5)], cancel_at=NOW - 2),
        {},
        "running",
        "It has been running since 2023-11-14T22:13:15.000Z on w:1, for 5 s; this is attempt 3, "
        "and it was cancelled at 2023-11-14T22:13:18.000Z, 2 s ago.",
        {"cancel_at": NOW - 2},
    ),
    (
        a_record(State.DELAYED, due_at=NOW + 7200),
        {"suspended_at": 1.0, "is_handled": False},
        "not_due",
        "It is due at 2023-11-15T00:13:20.000Z, in 2 h.",
        {"due_at": NOW + 7200},
    ),
    (
        a_record(State.RETRY, due_at=NOW + 180_000, failures=2, runs=[a_run()]),
        {},
        "not_due",
        'It is due at 2023-11-17T00:13:20.000Z, in 2 d; it is tried again after 2 failures, the last one: "boom".',
        {"error": "boom"},
    ),
    (
        a_record(State.RETRY, due_at=NOW + 180_000, failures=0, runs=[a_run()]),
        {},
        "not_due",
        'It is due at 2023-11-17T00:13:20.000Z, in 2 d; it is run again, after a run that ended with: "boom".',
        {"error": "boom"},
    ),
    (
        a_record(State.GHOST, due_at=NOW + 120, ghosts=2, error="no report", runs=[a_run("ghost")]),
        {},
        "not_due",
        'It is due at 2023-11-14T22:15:20.000Z, in 2 min; it is run again since nobody reported its last run: "no report".',
        {"error": "no report"},
    ),
    (
        a_record(),
        {"suspended_at": NOW - 1, "is_handled": False, "before": 7},
        "suspended",
        "Its type is suspended since 2023-11-14T22:13:19.000Z, and waits for a resume.",
        {"suspended_at": NOW - 1},
    ),
    (
        a_record(),
        {"is_handled": False, "before": 7, "reached": Reached("concurrency", 2, 2)},
        "no_worker",
        "No worker of this server takes its type.",
        {},
    ),
    (
        a_record(),
        {"before": 7, "reached": Reached("concurrency", 2000, 2000)},
        "limited",
        "Its type's limit concurrency of 2,000 is reached: 2,000 jobs of it run here.",
        {"limit": "concurrency", "value": 2000, "running": 2000, "before": 7},
    ),
    (
        a_record(),
        {"reached": Reached("max_running", 1, 1)},
        "limited",
        "Its type's limit max_running of 1 is reached: 1 job of it runs here.",
        {"limit": "max_running", "value": 1, "running": 1},
    ),
    (
        a_record(),
        {"reached": Reached("max_running", 0, 0)},
        "limited",
        "Its type's limit max_running is 0, so it waits until that is raised.",
        {"limit": "max_running", "value": 0},
    ),
    (
        a_record(State.RETRY, failures=1, runs=[a_run()]),
        {"reached": Reached("rate", 0.5, 3, NOW + 2)},
        "limited",
        "Its type's rate of 0.5 is used up: the next may begin at 2023-11-14T22:13:22.000Z, in 2 s"
        '; it is tried again after 1 failure, the last one: "boom".',
        {"limit": "rate", "next_at": NOW + 2, "error": "boom"},
    ),
    (
        a_record(resource="disk"),
        {"is_handled": False, "holder": Holder("b", NOW - 7)},
        "resource",
        'Its resource "disk" is held by job b, for 7 s.',
        {"resource": "disk", "holder": "b", "since": NOW - 7},
    ),
    (
        a_record(resource="disk"),
        {"turn": Turn("b", "scan", is_suspended=False, is_handled=True), "before": 7},
        "line",
        'Its resource "disk" is free, and it is the turn of job b of type "scan".',
        {"resource": "disk", "turn": "b", "turn_type": "scan"},
    ),
    (
        a_record(State.RETRY, resource="disk", failures=1, runs=[a_run("fail", "boom")]),
        {"turn": Turn("b", "scan", is_suspended=False, is_handled=False)},
        "line",
        'Its resource "disk" is free, and it is the turn of job b of type "scan", which no worker of this server takes: '
        'that holds it up for some seconds; it is tried again after 1 failure, the last one: "boom".',
        {"error": "boom"},
    ),
    (
        a_record(resource="disk"),
        {"turn": Turn("b", "scan", is_suspended=True, is_handled=True)},
        "line",
        'Its resource "disk" is free, and it is the turn of job b of type "scan", which is suspended: '
        "that holds it up for some seconds.",
        {},
    ),
    (a_record(), {"before": 1}, "behind", "1 job of its type comes before it.", {"before": 1, "before_is_more": False}),
    (
        a_record(),
        {"before": 1000},
        "behind",
        "1,000 jobs of its type come before it.",
        {"before": 1000, "before_is_more": False},
    ),
    (
        a_record(),
        {"before": 1001},
        "behind",
        "More than 1,000 jobs of its type come before it.",
        {"before": 1000, "before_is_more": True},
    ),
    (
        a_record(State.DELAYED, due_at=NOW),
        {},
        "next",
        "It is the next of its type, and begins when a worker has room.",
        {"before": 0},
    ),
    (
        a_record(State.RETRY, interrupted=1, runs=[a_run("interrupted", None)]),
        {},
        "next",
        "It is the next of its type, and begins when a worker has room; it is run again.",
        {},
    ),
    (
        a_record(State.RETRY, failures=1, error="x" * 300),
        {"before": 2},
        "behind",
        f'2 jobs of its type come before it; it is tried again after 1 failure, the last one: "{"x" * 200}…".',
        {"error": "x" * 300},
    ),
    (
        a_record(State.FAIL),
        {},
        "failed",
        "It failed for good at an unknown time: no reason was given.",
        {},
    ),
    (
        a_record(State.FAIL, error="job 1, which it waits for, was cancelled", **ENDED),
        {},
        "failed",
        'It failed for good at 2023-11-14T22:11:50.000Z, 90 s ago: "job 1, which it waits for, was cancelled".',
        {"failures": 0},
    ),
    (a_record(due_at=1e12), {}, "not_due", "It is due at 1000000000000 s after 1970, in 11554398 d.", {}),
]


@pytest.mark.parametrize(("record", "around", "reason", "text", "facts"), TABLE)
def test_a_reason_says_so_in_words_and_facts(
    record: JobRecord, around: dict[str, Any], reason: str, text: str, facts: dict[str, Any]
) -> None:
    answer = explained(Seen(record, NOW, **around))
    assert (answer["reason"], answer["text"]) == (reason, text)
    assert answer.items() >= facts.items()
    assert (answer["id"], answer["type"], answer["state"]) == ("a", "mail", record.state.word)


def test_of_a_job_that_is_not_stored_no_more_is_known() -> None:
    assert journaled("a") == {
        "text": "It is in the journal, and waits there for the store, which is behind or away.",
        "id": "a",
        "type": None,
        "state": None,
        "reason": "journaled",
    }


@pytest.mark.parametrize(
    ("record", "is_it"),
    [
        (a_record(), True),
        (a_record(State.RETRY, due_at=NOW), True),
        (a_record(State.RETRY, due_at=NOW + 1), False),
        (a_record(State.PROCESSING), False),
        (a_record(State.SUCCESS), False),
    ],
)
def test_only_who_waits_for_others_is_ready(record: JobRecord, is_it: bool) -> None:
    assert is_ready(record, NOW) is is_it
