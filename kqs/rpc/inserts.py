"""The insert call: what a peer sends goes to the node's inserter (kqs.inserter), and what becomes of it goes to the peer.

Two ways in. `insert_lines` takes a whole received chunk whose every line is a plain insert of one job, which becomes one
record, also if a lone one waits for its job's end (kqs.rpc.hotjobs); `insert` takes any other insert call. Nothing is
answered before the record is flushed. The journal settles records in order, so an answered insert means that all earlier ones
of its connection are flushed too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
from msgspec import Raw

from kqs.errors import CallError, JournalError
from kqs.inserter import Answer, Settled
from kqs.journal.format import Record
from kqs.options import PlainJob
from kqs.rpc.context import MAX_ORDERED_BYTES, Context
from kqs.rpc.hotjobs import Hotjob, check_room, may_any_wait, wait_s
from kqs.rpc.peer import Peer, translate
from kqs.wire import qrpc
from kqs.wire.call import NULL, Call, detached
from kqs.wire.inserted import Refused
from kqs.wire.jobs import Given
from kqs.wire.order import is_ordered
from kqs.wire.steps import JOBS_A_STEP, Steps, finish

_encode = msgspec.json.Encoder().encode
_NO_IDS = Raw(b"[]")


def insert_lines(peer: Peer, chunk: bytes, inserts: qrpc.Inserts) -> bool:
    """Keep every job of `chunk`, which is one plain insert a line; False, with nothing done, if one must be refused."""
    context = peer.context
    inserter = context.inserter
    jobs = list(inserts.jobs)
    count = len(jobs)
    given_ids = [] if count == 1 and jobs[0].id is None else [job.id for job in jobs if job.id is not None]
    if context.draining or (given_ids and inserter.may_make_any(given_ids)):
        return False
    if inserts.wait_s is None and (type(jobs[0]) is not PlainJob or context.backend.has_waits) and may_any_wait(context, jobs):
        return False
    if not inserter.are_alone(jobs) or (type(jobs[0]) is not PlainJob and any(map(is_ordered, jobs))):
        return False
    if inserts.wait_s:
        call = detached(Call("insert", id=inserts.ids[0]))
        try:
            _insert_waiting(peer, call, [None], inserts.wait_s, partial(inserter.keep_lines, chunk, jobs))
        except (CallError, JournalError) as error:
            peer.refuse(call, *translate(error))
        return True

    def settled(record: Record, error: JournalError | None) -> None:
        if error is None:
            context.counters.jobs_inserted += count
            answers = qrpc.insert_answers(inserts.ids, record.first_order, inserter.ids.suffix, jobs if given_ids else None)
            peer.send(answers)
        else:
            _refuse_lines(peer, inserts, error)
        peer.settle_flushed(record, count)

    try:
        record = inserter.keep_lines(chunk, jobs, settled)
    except JournalError as error:
        _refuse_lines(peer, inserts, error)
    else:
        peer.await_flush(record, count)
    return True


def inserting(peer: Peer, call: Call) -> Steps[None]:
    """Keep, in steps, the job `call` holds, or all jobs of its array or none of them."""
    return _inserting(peer, call, adopted=False)


def adopting(peer: Peer, call: Call) -> Steps[None]:
    """Insert, under ids that another server made, however lately: the caller has made sure that it does not run."""
    return _inserting(peer, call, adopted=True)


def _inserting(peer: Peer, call: Call, *, adopted: bool) -> Steps[None]:
    context = peer.context
    try:
        refuse_when_draining(context)
        if call.blob is not None:
            raise CallError("insert takes a job, not binary data", "bad_job")
        text = bytes(call.arg)
        call.arg, call.id = NULL, detached(call).id  # a long line must not outlive what is kept of it
        given = yield from context.inserter.checking(text, context.settings.max_insert_jobs, adopted=adopted)
        refuse_when_draining(context)
        if given.jobs:
            waits_s = 0.0 if given.is_array or adopted or call.notification else wait_s(context, given.jobs[0])
            if adopted:
                _insert_checked(peer, call, given, adopted, waits_s)
            else:
                after_order(peer, call, given, lambda: _insert_checked(peer, call, given, adopted, waits_s))
        else:
            peer.after_earlier_inserts(lambda: peer.answer(call, _NO_IDS))
    except Exception as error:
        peer.refuse(call, *translate(error))


def after_order(peer: Peer, call: Call, given: Given, keep: Callable[[], None]) -> None:
    """Keep jobs by `keep` when what they name of other jobs is known; at once, if they name none.

    Raises: as `keep`. CallError: `busy`: too many wait so.
    """
    if not (given.asked or given.batches):
        keep()
        return
    context, size = peer.context, len(given.payload)
    if context.ordered_bytes and context.ordered_bytes + size > MAX_ORDERED_BYTES:  # any one may wait alone
        raise CallError("too many jobs wait for what they name of others, try again later", "busy")
    context.ordered_bytes += size
    peer.begin_task()
    peer.context.spawn(_after_order(peer, call, given, keep), f"call {call.name}")


async def _after_order(peer: Peer, call: Call, given: Given, keep: Callable[[], None]) -> None:
    try:
        await peer.context.inserter.check_order(given)
        refuse_when_draining(peer.context)
        keep()
    except Exception as error:
        peer.refuse(call, *translate(error))
    finally:
        peer.context.ordered_bytes -= len(given.payload)
        peer.end_task(0)


def refuse_when_draining(context: Context) -> None:
    """Raise a CallError if the server is stopping."""
    if context.draining:
        raise CallError("the server is stopping", "draining")


def _insert_told(peer: Peer, call: Call, given: Given, adopted: bool, waits_s: float) -> None:
    """Insert jobs that are answered in steps, since they are many, or when the store has told what became of some of them.

    Args: waits_s: as for `_insert_checked`.
    """
    context, is_array, own_id = peer.context, given.is_array, given.jobs[0].id
    counters, are_told = context.counters, given.told
    hotjob: Hotjob | None = None

    def told(answers: list[Answer] | Exception) -> None:
        if isinstance(answers, Exception):
            if hotjob is not None:
                hotjob.leave()
            peer.refuse(call, *translate(answers))
        else:
            counters.jobs_inserted += len(answers) - sum(isinstance(answers[index], Refused) for index in are_told)
            if is_array:
                run = context.slices.run if len(answers) > JOBS_A_STEP else finish
                run(_telling_all(peer, call, answers))
                return
            _tell_one(peer, call, answers[0], hotjob, waits_s)
        peer.settle()

    if waits_s:
        check_room(peer)
    record = context.inserter.keep_told(given, told, peer.note_flushed, adopted=adopted, run=context.slices.run)
    peer.await_flush(record)
    if waits_s:  # from here on, since the job may have ended before its answer is told, and leave no record
        hotjob = Hotjob(peer, call, context.inserter.ids_of([own_id], record.first_order)[0])


def _telling_all(peer: Peer, call: Call, answers: list[Answer]) -> Steps[None]:
    """Answer the insert of an array in steps, and settle it."""
    parts = []
    for start in range(0, len(answers), JOBS_A_STEP):
        parts.append(_encode(answers[start : start + JOBS_A_STEP])[1:-1])
        yield
    peer.answer(call, b"[%b]" % b",".join(parts))
    peer.settle()


def _tell_one(peer: Peer, call: Call, answer: Answer, hotjob: Hotjob | None, waits_s: float) -> None:
    """Answer the insert of one job, or tell its id and have the call wait. hotjob: listens already, if it is to wait."""
    if isinstance(answer, Refused):
        if hotjob is not None:
            hotjob.leave()
        peer.refuse(call, answer.code, answer.message)
    elif hotjob is None:
        peer.answer(call, _encode(answer))
    else:
        peer.event(call, _encode(answer))
        hotjob.follow(answer if isinstance(answer, str) else answer.id)
        hotjob.begin(waits_s)


def _insert_checked(peer: Peer, call: Call, given: Given, adopted: bool, waits_s: float) -> None:
    """Keep checked jobs. waits_s: how long the call waits for the job's end; 0.0: not. Raises: CallError, JournalError."""
    if given.told or len(given.jobs) > JOBS_A_STEP:
        _insert_told(peer, call, given, adopted, waits_s)
        return
    context, is_array = peer.context, given.is_array
    inserter = context.inserter
    own_ids = [job.id for job in given.jobs]
    keep = partial(inserter.keep, given, adopted=adopted)
    if waits_s:
        _insert_waiting(peer, call, own_ids, waits_s, keep)
        return

    def settled(record: Record, error: JournalError | None) -> None:
        if error is None:
            context.counters.jobs_inserted += len(own_ids)
            ids = inserter.ids_of(own_ids, record.first_order)
            peer.answer(call, _encode(ids if is_array else ids[0]))
        else:
            peer.refuse(call, *translate(error))
        peer.settle_flushed(record)

    peer.await_flush(keep(settled))


def _insert_waiting(
    peer: Peer, call: Call, own_ids: list[str | None], waits_s: float, keep: Callable[[Settled], Record]
) -> None:
    """Keep one job and answer the call when that has ended.

    Args: own_ids: that of the job, if it brought one. keep: journals it. Raises: CallError, JournalError: it was not kept.
    """
    check_room(peer)
    context = peer.context

    def settled(record: Record, error: JournalError | None) -> None:
        if error is None:
            context.counters.jobs_inserted += 1
            peer.event(call, _encode(job_id))
            hotjob.begin(waits_s)
        else:
            hotjob.leave()
            peer.refuse(call, *translate(error))
        peer.settle_flushed(record)

    record = keep(settled)
    peer.await_flush(record)
    (job_id,) = context.inserter.ids_of(own_ids, record.first_order)

    def settle() -> None:
        if record.done is not None:
            record.done(None)

    # the end of a job under an id that was made here is told when its record has been flushed, be that told or not
    hotjob = Hotjob(peer, call, job_id, settle=settle if own_ids == [None] else None)


def _refuse_lines(peer: Peer, inserts: qrpc.Inserts, error: JournalError) -> None:
    code, message = translate(error)
    for call_id in inserts.ids:
        peer.refuse(Call("insert", id=call_id), code, message)
