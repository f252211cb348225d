"""Owners' changes of damaged and old records in SQLite, and of long data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from kqs.filter import Filter, Pattern
from kqs.job import Accepted, Claim, Entry, Report
from kqs.states import State
from kqs.store import change as bounds
from kqs.store.base import DAMAGED, Change, Slice, Verb
from kqs.store.sqlite import change, claim, insert, matching, pages, records, report
from kqs.store.sqlite.session import Session
from tests.support.jobs import EVERYTHING
from tests.support.sqlite_sessions import NOW, a_session

LONG = b'"' + b"x" * 2000 + b'"'


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with a_session(tmp_path) as session:
        jobs = [Accepted(n, session.ids.of(n), False, "mail", 1, 0.0, None, LONG if n % 2 else b"1", None) for n in range(1, 7)]
        insert.insert(session, jobs, 1, "w", NOW)
        yield session


def damage(session: Session, **fields: Any) -> None:
    for name, value in fields.items():
        session.db.execute(f"update jobs set {name} = ?", (value,))


def do(
    session: Session, verb: Verb, wanted: Filter = EVERYTHING, first_order: int = 100, *, is_forced: bool = False
) -> list[Slice]:
    parts = [change.change(session, Change(verb, wanted, NOW, 2**62, is_forced=is_forced), None, first_order)]
    while parts[-1].next is not None:
        first_order += bounds.SLICE
        parts.append(change.change(session, Change(verb, wanted, NOW, 2**62, is_forced=is_forced), parts[-1].next, first_order))
    return parts


def count(parts: list[Slice]) -> int:
    return sum(len(part.changed) for part in parts)


def state_of(session: Session, order: int) -> tuple[State, str | None]:
    record = records.job(session, session.ids.of(order))
    assert record is not None
    return record.state, record.error


def test_jobs_in_no_state_are_cancelled_and_deleted(session: Session) -> None:
    session.db.execute("update jobs set state = 99 where ord < 4")
    assert {one.state for one in do(session, Verb.CANCEL)[0].changed} == {State.NEW}
    assert state_of(session, 1) == (State.CANCELLED, "cancelled")
    session.db.execute("update jobs set state = 99 where ord < 4")
    assert count(do(session, Verb.DELETE)) == 6
    assert session.db.execute("select count(*) from bulk").fetchone() == (0,)


def test_job_without_its_long_data_is_damaged_when_it_runs_again(session: Session) -> None:
    do(session, Verb.CANCEL)
    session.db.execute("delete from bulk where ord = 1")
    (part,) = do(session, Verb.RETRY)
    assert len(part.ready) == 6
    assert len(claim.claim(session, part.ready, "w", NOW)) == 5
    assert state_of(session, 1) == (State.FAIL, DAMAGED)


def test_job_that_was_stored_before_there_were_checksums_gets_one(session: Session) -> None:
    do(session, Verb.CANCEL)
    damage(session, crc32c=None)
    session.unchecked_to = 5
    (part,) = do(session, Verb.RETRY)
    assert [run.data for run in claim.claim(session, part.ready, "w", NOW)] == [LONG, b"1", LONG, b"1", LONG]
    assert state_of(session, 6) == (State.FAIL, DAMAGED)


@pytest.mark.parametrize("value", [7, -1, 2**40, "text", b"\xff"])
def test_job_whose_checksum_is_damaged_stays_so(session: Session, value: object) -> None:
    do(session, Verb.CANCEL)
    session.db.execute("update jobs set crc32c = ? where ord = 2", (value,))
    (part,) = do(session, Verb.RETRY)
    assert len(claim.claim(session, part.ready, "w", NOW)) == 5
    assert state_of(session, 2) == (State.FAIL, DAMAGED)


def test_long_earlier_runs_stay(session: Session) -> None:
    do(session, Verb.CANCEL)
    earlier = [f'[{n},"w",1.0,2.0,"fail","{"x" * 900}"]' for n in range(1, 4)]
    session.db.execute("update jobs set attempt = 4, started_at = 3.0, runs = ? where ord < 3", ("\n".join(earlier),))
    with patch.object(bounds, "LOOKED_BYTES", 4000):
        assert [len(part.changed) for part in do(session, Verb.RETRY)] == [1, 2, 3]
    for order in (1, 2):
        record = records.job(session, session.ids.of(order))
        assert record is not None
        assert [run.attempt for run in record.runs] == [1, 2, 3, 4]


def test_a_slice_reads_no_more_data_than_it_may(session: Session) -> None:
    do(session, Verb.CANCEL)
    with patch.object(bounds, "LOOKED_BYTES", 3000), patch.object(matching, "_PART_BYTES", 1):
        assert [len(part.changed) for part in do(session, Verb.CANCEL, Filter(match=Pattern("x")))] == [0]
        parts = do(session, Verb.RETRY)
        assert [len(part.changed) for part in parts] == [3, 3]
        parts = do(session, Verb.CANCEL, Filter(match=Pattern("xx")))
        assert count(parts) == 3
        assert len(parts) > 1


def test_a_slice_searches_no_longer_than_it_may(session: Session) -> None:
    with patch.object(bounds, "MATCH_S", 0.0):
        parts = do(session, Verb.DELETE, Filter(match=Pattern("^1$")))
        assert (count(parts), len(parts)) == (3, 6)
        page = pages.page(session, Filter(match=Pattern("x")), None, 9, False)
        assert ([record.order for record in page.records], page.next_after) == ([1], 1)


def test_entries_of_the_broker_show_no_long_data(session: Session) -> None:
    do(session, Verb.CANCEL)
    asked = Change(Verb.RETRY, Filter(), NOW, 2**62, body_bytes=5000)
    part = change.change(session, asked, None, 100)
    assert [entry.data for entry in part.ready] == [None, b"1"] * 3


def test_ids_that_were_made_and_given_are_found(session: Session) -> None:
    given = Accepted(50, "mine", True, "mail", 1, 0.0, None, b"1", None)
    insert.insert(session, [given], 2, "w", NOW)
    ids = (session.ids.of(3), "mine", "other", session.ids.of(77))
    assert [one.order for one in do(session, Verb.DELETE, Filter(ids=ids))[0].changed] == [3, 50]
    assert claim.claim(session, [Entry(3, session.ids.of(3), "mail", 1)], "w", NOW) == []


def running(session: Session, order: int) -> Claim:
    (run,) = claim.claim(session, [Entry(order, session.ids.of(order), "mail", 1)], "w", NOW)
    return run.claim


def test_job_that_is_deleted_while_its_cancelled_run_goes_on_is_looked_for_no_more(session: Session) -> None:
    gone = running(session, 1)
    do(session, Verb.CANCEL, Filter(ids=(gone.id,)))
    assert session.cancelled == {1}
    assert count(do(session, Verb.DELETE, Filter(ids=(gone.id,)), is_forced=True)) == 1
    session.commit()
    session.begin(durable=False)
    assert session.cancelled == set()


def test_job_whose_delete_is_undone_is_cancelled_still(session: Session) -> None:
    going_on = running(session, 1)
    do(session, Verb.CANCEL, Filter(ids=(going_on.id,)))
    session.commit()
    session.begin(durable=False)
    do(session, Verb.DELETE, Filter(ids=(going_on.id,)), is_forced=True)
    session.rollback(ZeroDivisionError())
    session.begin(durable=False)
    assert report.report_all(session, [Report(going_on, "mail", State.RETRY, "again", NOW)]) == [None]
