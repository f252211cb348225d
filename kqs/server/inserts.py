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
from kqs.ids import microseconds
from kqs.journal.format import Kind, Record
from kqs.server.context import Context
from kqs.server.peer import Peer, translate
from kqs.wire import qrpc
from kqs.wire.call import NULL, Call, detached
from kqs.wire.jobs import Given, decoding
from kqs.wire.steps import Steps

_encode = msgspec.json.Encoder().encode
_NO_IDS = Raw(b"[]")
_JOBS_A_STEP = 1000


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
        record = Record(Kind.CALLS, count, first_order, chunk, jobs, accepted_us=microseconds(now))
        _journal(peer, record, count, answer)
    except JournalError as error:
        _refuse_lines(peer, inserts, error)
    return True


def inserting(peer: Peer, call: Call) -> Steps[None]:
    """Keep, in steps, the job `call` holds, or all jobs of its array or none of them."""
    now = peer.context.clock()
    return _inserting(peer, call, lambda job_id: peer.context.backend.ids.may_be_unmade(job_id, now))


def adopting(peer: Peer, call: Call) -> Steps[None]:
    """Insert, under ids that another server made, however lately: the caller has made sure that it does not run."""
    return _inserting(peer, call, peer.context.backend.ids.is_ours_unmade, adopted=True)


def _inserting(peer: Peer, call: Call, is_unmade: Callable[[str], bool], *, adopted: bool = False) -> Steps[None]:
    context = peer.context
    try:
        _refuse_when_draining(context)
        if call.blob is not None:
            raise CallError("insert takes a job, not binary data", "bad_job")
        text = bytes(call.arg)
        call.arg, call.id = NULL, detached(call).id  # a long line must not outlive what is kept of it
        given = yield from decoding(text, context.max_insert_jobs)
        yield from _refusing_unmade(given, is_unmade)
        _refuse_when_draining(context)
        if given.jobs:
            _insert_checked(peer, call, given, adopted)
        else:
            _after_earlier_inserts(peer, lambda: peer.answer(call, _NO_IDS))
    except Exception as error:
        peer.refuse(call, *translate(error))


def _refuse_when_draining(context: Context) -> None:
    if context.draining:
        raise CallError("the server is stopping", "draining")


def _insert_checked(peer: Peer, call: Call, given: Given, adopted: bool) -> None:
    context, payload, jobs, is_array = peer.context, given.payload, given.jobs, given.is_array
    count, now = len(jobs), context.clock()
    first_order = context.backend.ids.take(count, now)
    own_ids = [job.id for job in jobs]

    def answer(error: JournalError | None) -> None:
        if error is None:
            context.counters.jobs_inserted += count
            ids = _ids(context, own_ids, first_order)
            peer.answer(call, _encode(ids if is_array else ids[0]))
        else:
            peer.refuse(call, *translate(error))

    record = Record(Kind.JOBS, count, first_order, payload, jobs, accepted_us=microseconds(now), adopted=adopted)
    _journal(peer, record, 1, answer)


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


def _refusing_unmade(given: Given, is_unmade: Callable[[str], bool]) -> Steps[None]:
    for index, job in enumerate(given.jobs):
        if job.id is not None and is_unmade(job.id):
            where = f"job {index}: " if given.is_array else ""
            raise CallError(f"{where}id {job.id!r} has the form of an id that a server may have yet to make", "bad_job")
        if index % _JOBS_A_STEP == 0:
            yield


def _ids(context: Context, own_ids: Sequence[str | None], first_order: int) -> list[str]:
    made = context.backend.ids.of
    return [made(order) if own is None else own for order, own in enumerate(own_ids, first_order)]
