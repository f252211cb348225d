"""The call by which jobs are inserted with one that runs when all have ended. Source: docs/protocol.md, "Batches"."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from kqs.errors import CallError
from kqs.inserter import Answer
from kqs.options import JobFields, PlainJob
from kqs.rpc.context import Context
from kqs.rpc.inserts import after_order, refuse_when_draining
from kqs.rpc.peer import Peer, answer_later, translate
from kqs.wire import strict
from kqs.wire.call import NULL, Call, detached
from kqs.wire.inserted import Refused
from kqs.wire.jobs import Given
from kqs.wire.members import Reader, checking_keys
from kqs.wire.order import batch_text
from kqs.wire.steps import Steps
from kqs.words.nearest import unknown_name

_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode

_RULE = "batch takes {jobs, then}, {open: true, then} or {id, close: true}"
_FIELDS = Reader("jobs", "then", "open", "id", "close")
_TRUE = b"true"
_JOB = re.compile(r"^job (\d+): ")


def batching(peer: Peer, call: Call) -> Steps[None]:
    """Keep, in steps, the jobs of a batch and its `then`, or begin an open one; or close one."""
    context = peer.context
    try:
        refuse_when_draining(context)
        fields = yield from _fields(call)
        if "id" in fields:
            _close(peer, detached(call), _closed_id(fields))
            return
        text, is_open = _array_of(*_parts(fields)), "open" in fields
        del fields  # a long line must not outlive what is kept of it
        call.arg, call.id = NULL, detached(call).id
        given = yield from _checking(context, text, is_open=is_open)
        del text
        after_order(peer, call, given, lambda: _keep(peer, call, given))
    except Exception as error:
        peer.refuse(call, *translate(error))


def _fields(call: Call) -> Steps[dict[str, Raw]]:
    if call.blob is not None:
        raise CallError(f"{_RULE}, not binary data")
    text = bytes(call.arg)
    if not text.startswith(b"{"):
        raise CallError(f"{_RULE}, got {strict.shown(text)}")
    yield from checking_keys(text, _FIELDS)
    try:
        fields: dict[str, Raw] = _decode_object(text)
    except msgspec.DecodeError:
        raise CallError(f"{_RULE}, got {strict.shown(text)}") from None
    for name in fields:
        if name not in _FIELDS.keys:
            raise CallError(unknown_name("field", name, _FIELDS.keys))
    return {name: value for name, value in fields.items() if bytes(value) != b"null"}


def _closed_id(fields: dict[str, Raw]) -> str:
    if set(fields) != {"id", "close"} or bytes(fields["close"]) != _TRUE:
        raise CallError(_RULE)
    try:
        return msgspec.json.decode(fields["id"], type=str)
    except msgspec.ValidationError:
        raise CallError("id: expected the id of a batch") from None


def _parts(fields: dict[str, Raw]) -> tuple[bytes, bytes]:
    """Return the texts of the `then`, and of the array of jobs."""
    is_open = set(fields) == {"open", "then"} and bytes(fields["open"]) == _TRUE
    if not is_open and set(fields) != {"jobs", "then"}:
        raise CallError(_RULE)
    then, jobs = bytes(fields["then"]).strip(), b"[]" if is_open else bytes(fields["jobs"]).strip()
    if not jobs.startswith(b"["):
        raise CallError(f"jobs: expected an array of jobs, got {strict.shown(jobs)}", "bad_job")
    if not then.startswith(b"{"):
        raise CallError(f"then: expected a job object, got {strict.shown(then)}", "bad_job")
    return then, jobs


def _array_of(then: bytes, jobs: bytes) -> bytes:
    """Return one array of all jobs, the `then` first."""
    rest = jobs[1:-1].strip()
    return b"[%b,%b]" % (then, rest) if rest else b"[%b]" % then


def _checking(context: Context, text: bytes, *, is_open: bool) -> Steps[Given]:
    try:
        given = yield from context.inserter.checking(text, context.settings.max_insert_jobs + 1, before=1)
    except CallError as error:
        raise CallError(_JOB.sub(_in_place, str(error)), error.call_code) from None
    first, count = given.jobs[0], len(given.jobs) - 1
    for index, job in enumerate(given.jobs):
        place = "then: " if not index else f"job {index - 1}: "
        if isinstance(job, JobFields) and job.batch is not None:
            raise CallError(f"{place}batch: expected none, since the call says it", "bad_job")
        if index and job.id is not None and job.id == first.id:
            raise CallError(f"{place}id: expected another than that of `then`, got {job.id!r}", "bad_job")
    members = -1 if is_open else count
    given.jobs[0] = (
        JobFields(type=first.type, data=first.data, id=first.id, members=members)
        if isinstance(first, PlainJob)
        else replace(first, members=members)
    )
    given.payload = batch_text(given.payload, members)
    return given


def _in_place(found: re.Match[str]) -> str:
    return "then: " if found[1] == "0" else f"job {int(found[1]) - 1}: "


def _keep(peer: Peer, call: Call, given: Given) -> None:
    """Keep them, and answer what becomes of the `then`, which the store may have to say."""
    context, count = peer.context, len(given.jobs)
    given.told = {index: told for index, told in given.told.items() if index == 0}

    def told(answers: list[Answer] | Exception) -> None:
        then = answers if isinstance(answers, Exception) else answers[0]
        if isinstance(then, Exception):
            peer.refuse(call, *translate(then))
        elif isinstance(then, Refused):
            peer.refuse(call, then.code, _JOB.sub(_in_place, then.message))
        else:
            context.counters.jobs_inserted += count
            peer.answer(call, _encode(then))
        peer.settle()

    peer.await_flush(context.inserter.keep_told(given, told, peer.note_flushed, run=context.slices.run))


def _close(peer: Peer, call: Call, batch_id: str) -> None:
    async def close() -> dict[str, Any]:
        found = await peer.context.backend.close_batch(batch_id)
        if found is None:
            raise CallError(f"no batch has the id {strict.shown(_encode(batch_id))}", "not_found")
        return found

    answer_later(peer, call, close)
