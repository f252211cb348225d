"""What old clients say of themselves beside a job's fields: `auth`, which is taken out before anything else sees it.

All other bytes stay as sent. It must never reach the journal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
from msgspec import Raw

from kqs.errors import CallError
from kqs.wire import strict
from kqs.wire.jobtext import JOB_FIELDS, is_array_text, place_of, walking_job
from kqs.wire.members import Reader
from kqs.wire.scan import SHORT_BYTES
from kqs.wire.steps import Steps

_AUTH = "auth"
_NO_AUTH = {b'"auth"': 0}
_ONE_AUTH = {b'"auth"': 1}
_AUTH_KEY = re.compile(rb'"auth"[ \t\r\n]*+:[ \t\r\n]*+')
_FIELDS_AND_AUTH = Reader(*JOB_FIELDS, _AUTH)
#: short jobs, member by member, some 10 ms
_JOBS_A_STEP = 256

_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_array = msgspec.json.Decoder(list[Raw]).decode


def taking_auth_out(text: bytes, first: int = 0) -> Steps[bytes]:
    """Return in steps an insert's argument without the `auth` of the job, or of each job.

    Args: first: the index of the first job, when it is an array. What is no object is left as it is.
    Raises: CallError: bad_job; a job has `auth` twice.
    """
    if not strict.may_hold_unseen(text, _NO_AUTH):
        return text
    if len(text) <= SHORT_BYTES and (left := _without_sole_auth(text)) is not None:
        return left
    yield
    kept: list[bytes] = []
    at = 0
    for index, (start, job) in enumerate(_objects(text), first):
        end_before = None
        has_auth = False
        for member in walking_job(bytes(job), _FIELDS_AND_AUTH, {}, place_of(index, is_array=is_array_text(text))):
            if member is None:
                yield
            elif member.key != _AUTH:
                end_before = start + member.end
            elif has_auth:
                raise CallError(f"{place_of(index, is_array=is_array_text(text))}{_AUTH}: stands twice", "bad_job")
            else:
                has_auth = True
                end = start + member.end
                is_last = text.startswith(b"}", end)
                kept.append(text[at : start + member.start if end_before is None or not is_last else end_before])
                at = end if is_last else end + 1
        if index % _JOBS_A_STEP == _JOBS_A_STEP - 1:
            yield
    return b"".join((*kept, text[at:])) if kept else text


def _without_sole_auth(text: bytes) -> bytes | None:
    """Return a short job without its `auth`, if that is beyond doubt: nothing else in the job looks like it."""
    if is_array_text(text) or strict.may_hold_unseen(text, _ONE_AUTH):
        return None
    try:
        auth = _decode_object(text).get(_AUTH)
    except msgspec.ValidationError:
        return None
    start = text.index(b'"auth"')
    key = _AUTH_KEY.match(text, start)
    if auth is None or key is None:
        return None
    behind = text[key.end() + len(auth) :].lstrip()
    if behind.startswith(b","):
        return text[:start] + behind[1:]
    before = text[:start].rstrip()
    return (before[:-1] if before.endswith(b",") else text[:start]) + behind


def _objects(text: bytes) -> Iterator[tuple[int, Raw]]:
    """Yield the object in `text`, or those in its array, and where each begins."""
    if not is_array_text(text):
        if text.lstrip().startswith(b"{"):
            yield 0, Raw(text)
        return
    at = text.index(b"[") + 1
    for element in _decode_array(text):
        at = text.index(bytes(memoryview(element)[:1]), at)
        if text.startswith(b"{", at):
            yield at, element
        at += len(element)
