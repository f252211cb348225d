"""The insert call: from checked jobs to a journal record, and from its flush to the answer.

Two ways in. `insert_lines` takes a whole received chunk whose every line is a plain insert of one job and journals it as
one record; `insert` takes any other insert call. Everything is checked before the journal sees the record, so that a bad
job never fails its neighbours, and nothing is answered before `Record.done` tells that the record is flushed. The journal
settles records in order, so an answered insert means that all earlier ones of its connection are flushed too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from msgspec import Raw

from kqs.errors import CallError, JournalError
from kqs.journal.format import Kind, Record
from kqs.options import Job
from kqs.server.context import Context
from kqs.server.peer import Peer, translate
from kqs.wire import qrpc
from kqs.wire.call import Call, detached
from kqs.wire.jobs import decode_jobs, strip_auth

_encode = msgspec.json.Encoder().encode
_NO_IDS = Raw(b"[]")


def insert_lines(peer: Peer, chunk: bytes, inserts: qrpc.Inserts) -> bool:
    """Keep every job of `chunk`, which is one plain insert a line; False, with nothing done, if one must be refused."""
    context = peer.context
    jobs = list(inserts.jobs)
    count = len(jobs)
    given_ids = [job.id for job in jobs if job.id is not None]
    ids, now = context.backend.ids, context.clock()
    if context.draining or any(ids.may_be_unmade(job_id, now) for job_id in given_ids):
        return False
    first_order = ids.take(count, now)

    def answer(error: JournalError | None) -> None:
        if error is None:
            context.counters.jobs_inserted += count
            peer.send(qrpc.insert_answers(inserts.ids, first_order, ids.suffix, jobs if given_ids else None))
        else:
            _refuse_lines(peer, inserts, error)

    try:
        _journal(peer, Record(Kind.CALLS, count, first_order, chunk, jobs), count, answer)
    except JournalError as error:
        _refuse_lines(peer, inserts, error)
    return True


def insert(peer: Peer, call: Call) -> None:
    """Keep the job `call` holds, or all jobs of its array or none of them."""
    now = peer.context.clock()
    _insert(peer, call, lambda job_id: peer.context.backend.ids.may_be_unmade(job_id, now))


def adopt(peer: Peer, call: Call) -> None:
    """Insert, under ids that another server made, however lately: the caller has made sure that it does not run."""
    _insert(peer, call, peer.context.backend.ids.is_ours_unmade)


def _insert(peer: Peer, call: Call, is_unmade: Callable[[str], bool]) -> None:
    try:
        if peer.context.draining:
            raise CallError("the server is stopping", "draining")
        if call.blob is not None:
            raise CallError("insert takes a job, not binary data", "bad_job")
        payload = strip_auth(call.arg)
        jobs = decode_jobs(payload)
        _refuse_unmade(jobs, is_unmade)
        if jobs:
            _insert_checked(peer, detached(call), bytes(payload), jobs)
        else:
            _after_earlier_inserts(peer, lambda: peer.answer(call, _NO_IDS))
    except Exception as error:
        peer.refuse(call, *translate(error))


def _insert_checked(peer: Peer, call: Call, payload: bytes, jobs: list[Job]) -> None:
    context = peer.context
    first_order = context.backend.ids.take(len(jobs), context.clock())

    def answer(error: JournalError | None) -> None:
        if error is None:
            context.counters.jobs_inserted += len(jobs)
            ids = _ids(context, jobs, first_order)
            peer.answer(call, _encode(ids if payload.lstrip().startswith(b"[") else ids[0]))
        else:
            peer.refuse(call, *translate(error))

    _journal(peer, Record(Kind.JOBS, len(jobs), first_order, payload, jobs), 1, answer)


def _journal(peer: Peer, record: Record, calls: int, answer: Callable[[JournalError | None], None]) -> None:
    """Hand `record` to the journal; `answer` is called when it is settled, and answers `calls` calls.

    Raises: JournalError: the record was not taken and `answer` will not be called.
    """
    context, size = peer.context, len(record.payload)

    def done(error: JournalError | None) -> None:
        record.done = None  # records are not seen by the garbage collector: this cycle would keep the payload for ever
        context.unflushed_bytes -= size
        if peer.newest_record is record:
            peer.newest_record = None
        answer(error)
        peer.settle(calls, at_once=record.alone)

    record.done = done
    context.backend.journal.append(record)
    context.unflushed_bytes += size
    peer.newest_record = record
    peer.defer(calls)


def _after_earlier_inserts(peer: Peer, answer: Callable[[], None]) -> None:
    """Answer an insert that keeps nothing: not before the connection's earlier ones are settled."""
    newest = peer.newest_record
    if newest is None:
        answer()
        return
    settle_newest = newest.done
    assert settle_newest is not None

    def done(error: JournalError | None) -> None:
        settle_newest(error)
        answer()
        peer.settle()

    newest.done = done
    peer.defer()


def _refuse_lines(peer: Peer, inserts: qrpc.Inserts, error: JournalError) -> None:
    code, message = translate(error)
    for call_id in inserts.ids:
        peer.refuse(Call("insert", id=call_id), code, message)


def _refuse_unmade(jobs: Sequence[Job], is_unmade: Callable[[str], bool]) -> None:
    for index, job in enumerate(jobs):
        if job.id is not None and is_unmade(job.id):
            where = f"job {index}: " if len(jobs) > 1 else ""
            raise CallError(f"{where}id {job.id!r} has the form of an id that a server may have yet to make", "bad_job")


def _ids(context: Context, jobs: Sequence[Job], first_order: int) -> list[str]:
    made = context.backend.ids.of
    return [made(order) if job.id is None else job.id for order, job in enumerate(jobs, first_order)]
