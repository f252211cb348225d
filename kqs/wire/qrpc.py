"""The native dialect: `{"v":1,"id":ID,"n":NAME,"m":ARG}` and its answers, as the npm package qrpc 1.1.6 speaks it.

    answer         {"v":1,"id":ID,"e":null,"s":"end","m":RESULT}      `m` last: that client cuts it off by position
    intermediate   {"v":1,"id":ID,"e":null,"s":"ok","m":RESULT}
    error          {"v":1,"id":ID,"e":{"_isError__":1,"name":…,"message":…,"code":…},"s":"err"}
    blob           {"v":1,"b":LENGTH,"id":ID,"e":null,"s":"end","b":"BASE64"}

`id` and `e` are left out when the call had no id. Without `"e":null` that client's callback gets undefined.

Two fast ways take a whole chunk of lines at once, with counts over all its bytes in place of work per line; they answer
None on the slightest doubt. `decoding_line` is exact. Why the counts are enough: `strict.may_hold_unseen`.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from operator import itemgetter
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from kqs.errors import CallError
from kqs.ids import digits_of
from kqs.options import Job, JobFields, PlainJob, TypeName, Wait, is_told
from kqs.wire import clean, envelope, replayed, strict
from kqs.wire.call import NULL, BadLine, Call
from kqs.wire.members import Reader
from kqs.wire.steps import Steps

_VERSION = Raw(b"1")
_NO_ID = Raw()
_NO_DATA = PlainJob("").data
_KEYS = ("v", "id", "n", "m", "b")
_READER = Reader(*_KEYS)
_ONCE = ("v", "id", "n", "m")  # `b` may stand twice: first its length, last the text

#: of a line with its newline
_FIRST, _LAST = itemgetter(0), itemgetter(-2)
_OPENING, _CLOSING = {ord("{")}, {ord("}")}

_IDS = re.compile(rb'(?:(?:"[^"\\\n]{0,198}"|-?[0-9][0-9.eE+-]{0,198})(?:\n|\Z))*+')

#: around the call's id and its result, as `end` has them
_END_HEAD, _END_MIDDLE, _END_TAIL = b'{"v":1,"id":', b',"e":null,"s":"end","m":', b"}\n"

#: the fewest bytes of a line, and what each member that may be left out adds to it beside its value
_INSERT_BYTES = len(b'{"n":"insert","m":{"type":""}}\n')
_CALL_BYTES = len(b'{"n":""}\n')
_V_BYTES = len(b'"v":1,')
_ID_BYTES = len(b'"id":,')
_M_BYTES = len(b',"m":')
_DATA_BYTES = len(b',"data":')
_JOB_ID_BYTES = len(b',"id":""')
_WAIT_BYTES = len(b',"wait":')

_encode = msgspec.json.Encoder().encode


class Inserts(msgspec.Struct, gc=False):
    """A chunk of inserts of one job each: the jobs, and the id of each call as JSON (None: it has none), in line order.

    wait_s: of a lone job that is plain but for its `wait`, which it has no more; None: `jobs` say it.
    """

    jobs: list[Job]
    ids: list[Raw | None]
    wait_s: float | None = None


class _PlainInsert(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    n: Literal["insert"]
    m: PlainJob
    id: Raw = _NO_ID
    v: Literal[1] | UnsetType = UNSET


class _WaitingJob(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    type: TypeName
    wait: Raw
    data: Raw = _NO_DATA


class _WaitingInsert(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    n: Literal["insert"]
    m: _WaitingJob
    id: Raw = _NO_ID
    v: Literal[1] | UnsetType = UNSET


class _Insert(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    n: Literal["insert"]
    m: JobFields
    id: Raw = _NO_ID
    v: Literal[1] | UnsetType = UNSET


class _Line(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    n: str
    m: Raw = NULL
    id: Raw = _NO_ID
    v: Literal[1] | UnsetType = UNSET


_plain_insert = msgspec.json.Decoder(_PlainInsert)
_decode_plain_insert = _plain_insert.decode
_decode_plain_inserts = _plain_insert.decode_lines
_decode_waiting_insert = msgspec.json.Decoder(_WaitingInsert).decode
_decode_wait: Callable[[Raw], float] = msgspec.json.Decoder(Wait).decode
_decode_full_inserts = msgspec.json.Decoder(_Insert).decode_lines
_decode_lines = msgspec.json.Decoder(_Line).decode_lines


def decode_inserts(chunk: bytes) -> Inserts | None:
    """Decode whole lines, if each is an insert of one job that decoding_line and jobs.decode_job would take as it is.

    One that is not answered with the id it is kept under is not among them.

    Returns: None when one is not, or is in doubt; nothing is known of any line then.
    """
    if chunk.find(b"\n") == len(chunk) - 1 and (lone := _decode_lone(chunk)) is not None:
        return lone
    try:
        calls = _decode_inserts(chunk)
    except (ValueError, RecursionError):
        return None
    accepted: list[Job] = [call.m for call in calls]
    ids = [None if call.id is _NO_ID else call.id for call in calls]
    data = [job.data for job in accepted]
    count = len(calls)
    if not count or not _is_clean(chunk, count, ids, data, 2) or (type(calls[0]) is _Insert and any(map(is_told, accepted))):
        return None
    own_ids = [job.id for job in accepted if job.id is not None]
    versions, given_ids, fewest_bytes = _found(calls, ids)
    fewest_bytes += _fewest_job_bytes(accepted, data, own_ids)
    keys = {b'"v"': versions, b'"id"': given_ids + len(own_ids), b'"n"': count, b'"m"': count, b'"type"': count}
    if strict.may_hold_unseen(chunk, keys, data, fewest_bytes):
        return None
    return Inserts(accepted, ids) if clean.are_clean(accepted) else None


def _decode_lone(line: bytes) -> Inserts | None:
    """Decode one line that ends with its only newline, as decode_inserts would, if it is of the plainest kind.

    Who inserts one job at a time waits for every step, and after each flush the processor has forgotten them all: so it is
    few steps, none of them a function of ours. Of `strict.may_hold_unseen` it asks the first question alone, and once more
    without the spaces that many encoders put between parts.
    """
    if b"\\" in line or not line.isascii() or line.count(b"{") + line.count(b"[") > strict.MAX_DEPTH:
        return None
    wait_s: float | None = None
    try:
        if b'"wait"' in line:
            waiting = _decode_waiting_insert(line)
            call_id, version, wait = waiting.id, waiting.v, waiting.m.wait
            job = PlainJob(waiting.m.type, waiting.m.data)
            wait_s = _decode_wait(wait)
            fewest_bytes = _INSERT_BYTES + len(job.type) + _WAIT_BYTES + len(wait)
        else:
            call = _decode_plain_insert(line)
            job, call_id, version = call.m, call.id, call.v
            fewest_bytes = _INSERT_BYTES + len(job.type)
    except (ValueError, RecursionError):
        return None
    if job.data is not _NO_DATA:
        fewest_bytes += _DATA_BYTES + len(job.data)
    if version is not UNSET:
        fewest_bytes += _V_BYTES
    if call_id is not _NO_ID:
        fewest_bytes += _ID_BYTES + len(call_id)
        if not _IDS.fullmatch(call_id):
            return None
    if not clean.is_known(job.type) or not (len(line) == fewest_bytes or _is_spaced(line, fewest_bytes, (job.data, call_id))):
        return None
    return Inserts([job], [None if call_id is _NO_ID else call_id], wait_s)


def _is_spaced(line: bytes, fewest_bytes: int, kept: tuple[Raw, Raw]) -> bool:
    """Tell whether `line` takes more than `fewest_bytes` by spaces only, outside of what was `kept`. No other part has any."""
    return len(line) - line.count(b" ") == fewest_bytes - sum([bytes(value).count(b" ") for value in kept])


def _found(calls: Sequence[_PlainInsert | _Insert | _Line], ids: list[Raw | None]) -> tuple[int, int, int]:
    """Return how many of these calls have a `v`, how many an `id`, and how many bytes these members take at least."""
    given_ids = [call_id for call_id in ids if call_id is not None]
    versions = len(calls) - [call.v for call in calls].count(UNSET)
    return versions, len(given_ids), versions * _V_BYTES + len(given_ids) * _ID_BYTES + sum(map(len, given_ids))


def _fewest_job_bytes(accepted: list[Job], data: list[Raw], own_ids: list[str]) -> int:
    """Return how many bytes these inserts take at least, without `v` and the calls' ids; less, if a job has options."""
    given_data = len(data) - data.count(_NO_DATA)
    least = len(data) * _INSERT_BYTES + given_data * _DATA_BYTES + len(own_ids) * _JOB_ID_BYTES
    left_out = (len(data) - given_data) * len(_NO_DATA)
    return least + sum(map(len, data)) - left_out + sum([len(job.type) for job in accepted]) + sum(map(len, own_ids))


def replay_calls(payload: bytes) -> list[Job]:
    """Decode again the jobs of lines that decode_inserts once accepted, without its checks.

    Raises: msgspec.DecodeError: it never did.
    """
    try:
        return [call.m for call in _decode_inserts(payload)]
    except msgspec.ValidationError:
        return [replayed.replay_job(call.m) for call in _decode_lines(payload)]


def decode_calls(chunk: bytes) -> list[Call] | None:
    """Decode whole lines of plain calls of any name; blank lines are nothing.

    Returns: None when one is bad, has a blob, speaks JSON-RPC, or is in doubt; nothing is known of any line then.
    """
    try:
        lines: list[_Line] = _decode_lines(chunk)
    except (ValueError, RecursionError):
        return None
    args = [line.m for line in lines]
    ids = [None if line.id is _NO_ID else line.id for line in lines]
    count = len(lines)
    if not _is_clean(chunk, count, ids, args, 1):
        return None
    given = len([arg for arg in args if arg is not NULL])
    versions, given_ids, fewest_bytes = _found(lines, ids)
    names = [line.n for line in lines]
    fewest_bytes += count * _CALL_BYTES + sum(map(len, names))
    fewest_bytes += given * _M_BYTES + sum(map(len, args)) - (count - given) * len(NULL)
    keys = {b'"v"': versions, b'"id"': given_ids, b'"n"': count, b'"m"': given}
    if strict.may_hold_unseen(chunk, keys, args, fewest_bytes):
        return None
    return list(map(Call, names, args, ids))


def decoding_line(line: bytes) -> Steps[Call | BadLine]:
    """Decode one line exactly, in steps; what is wrong with it is said in full."""
    call_id = None
    try:
        read = yield from envelope.reading(line, _READER, _ONCE)
        found = read.found
        call_id = _id_of(found)
        if read.fault is not None:
            raise CallError(read.fault)
        if found.get("v", _VERSION) != _VERSION:
            raise CallError(f"v: expected 1, got {strict.shown(found['v'])}")
        name = envelope.name_of("n", found)
        yield
        return Call(name, found.get("m", NULL), call_id, (yield from _decoding_blob(found)))
    except CallError as error:
        return BadLine(error.call_code, str(error), call_id)


def end(call_id: Raw | None, result: Raw | bytes) -> bytes:
    """Return the last answer to a call. Args: result: JSON."""
    if call_id is None:
        return b'{"v":1,"s":"end","m":%b}\n' % result
    return b'{"v":1,"id":%b,"e":null,"s":"end","m":%b}\n' % (call_id, result)


def ends(ids: Sequence[Raw | None], results: Sequence[Raw]) -> bytes:
    """Return the joined last answers to calls."""
    if None in ids:
        return b"".join(map(end, ids, results))
    return b"".join(_interleaved(_END_HEAD, ids, _END_MIDDLE, results, _END_TAIL))


def progress(call_id: Raw | None, result: Raw | bytes) -> bytes:
    """Return an intermediate answer. Args: result: JSON."""
    if call_id is None:
        return b'{"v":1,"s":"ok","m":%b}\n' % result
    return b'{"v":1,"id":%b,"e":null,"s":"ok","m":%b}\n' % (call_id, result)


def end_blob(call_id: Raw | None, blob: bytes) -> bytes:
    """Return the last answer to a call whose result is binary; an empty one goes as null, or that client never calls back."""
    if not blob:
        return end(call_id, NULL)
    text = b2a_base64(blob, newline=False)
    head = b"" if call_id is None else b'"id":%b,"e":null,' % call_id
    return b'{"v":1,"b":%d,%b"s":"end","b":"%b"}\n' % (len(text), head, text)


def error(call_id: Raw | None, code: str, message: str) -> bytes:
    """Return the answer to a call that was refused or failed. Args: code: of errors.ERROR_CODES."""
    head = b"" if call_id is None else b'"id":%b,' % call_id
    fault = _encode({"_isError__": 1, "name": "Error", "message": message, "code": code})
    return b'{"v":1,%b"e":%b,"s":"err"}\n' % (head, fault)


def insert_answers(ids: Sequence[Raw | None], first_order: int, suffix: str, jobs: Sequence[Job] | None = None) -> bytes:
    """Return the joined answers to the inserts of one job each.

    Args: ids: of the calls, in order. first_order, suffix: what kqs.ids.Ids names the jobs by. jobs: given when some may
    have an id of their own, which is answered instead.
    """
    if len(ids) == 1 and jobs is None:
        return end(ids[0], b'"%013x%b"' % (first_order, suffix.encode()))
    has_own_ids = jobs is not None and any(job.id is not None for job in jobs)
    if None not in ids and not has_own_ids:
        tail = suffix.encode() + b'"' + _END_TAIL
        parts, at = list[bytes](), 0
        for head, ends_of_orders in digits_of(first_order, len(ids)):
            count = len(ends_of_orders)
            parts += _interleaved(_END_HEAD, ids[at : at + count], _END_MIDDLE + b'"' + head, ends_of_orders, tail)
            at += count
        return b"".join(parts)
    orders = range(first_order, first_order + len(ids))
    own_ids = [job.id for job in jobs] if jobs is not None else [None] * len(ids)
    names = [own or f"{order:013x}{suffix}" for own, order in zip(own_ids, orders, strict=True)]
    return b"".join([end(call_id, b'"%b"' % name.encode()) for call_id, name in zip(ids, names, strict=True)])


def _interleaved(head: bytes, firsts: Sequence[Any], middle: bytes, seconds: Sequence[Any], tail: bytes) -> list[bytes]:
    """Return the pieces of as many texts as there are `firsts`, to be joined: thrice as fast as to format each."""
    parts = [head, b"", middle, b"", tail] * len(firsts)
    parts[1::5] = firsts
    parts[3::5] = seconds
    return parts


def _decode_inserts(chunk: bytes) -> Sequence[_PlainInsert | _Insert]:
    try:
        return _decode_plain_inserts(chunk)
    except msgspec.ValidationError:  # a job that has more than PlainJob knows, or something else that the other refuses too
        return _decode_full_inserts(chunk)


def _is_clean(chunk: bytes, count: int, ids: Sequence[Raw | None], values: Sequence[Raw], level: int) -> bool:
    """Tell whether `chunk` is whole lines of good text, one object each, with good call ids and values not too deep.

    Args: count: of decoded lines. ids: of the calls. values: what was kept raw. level: of nesting at which they stand.
    """
    if not strict.is_clean_text(chunk) or not _has_one_a_line(chunk, count):
        return False
    if not _IDS.fullmatch(b"\n".join([call_id for call_id in ids if call_id is not None])):
        return False
    return not strict.is_any_deeper(values, strict.MAX_DEPTH - level)


def _has_one_a_line(chunk: bytes, count: int) -> bool:
    """Tell whether the `count` objects that decode_lines found stand one a line; it also takes two on one, or one on two.

    Inside an object no newline stands between a closing and an opening brace, so where one does, an object ends.
    """
    if not chunk.endswith(b"\n"):
        return False
    lines = BytesIO(chunk).readlines()  # looks for them thrice as fast as `split` or `count`
    if len(lines) == count and set(map(_FIRST, lines)) == _OPENING and set(map(_LAST, lines)) == _CLOSING:
        return True
    lines = [line for line in map(bytes.strip, lines) if line]
    return len(lines) == count and all(line.startswith(b"{") and line.endswith(b"}") for line in lines)


def _id_of(found: Mapping[str, Raw]) -> Raw | None:
    raw = found.get("id", NULL)
    return None if raw == NULL else envelope.check_id(raw)


def _decoding_blob(found: Mapping[str, Raw]) -> Steps[bytes | None]:
    raw = found.get("b", NULL)
    if raw == NULL:
        return None
    text = envelope.text_of("b", raw)
    yield
    try:
        return a2b_base64(text.encode(), strict_mode=True)
    except Base64Error as error:
        raise CallError(f"b: expected base64, got {strict.shown(raw)}: {error}") from None
