"""How far a run is, as its worker says it: which JSON may be kept. The next run of the job is given what was said last."""

from __future__ import annotations

from kqs.errors import CallError
from kqs.job import MAX_PROGRESS_BYTES, NO_PROGRESS
from kqs.made.values import MAX_LEVELS, written
from kqs.wire.steps import finish
from kqs.wire.strict import checking_json, is_deeper

#: as `written` and we make it
_NULL = b"null"


def progress_of(value: object) -> bytes:
    """Return what a handler says, as it is kept. Raises: ValueError: it cannot be; the message says why."""
    try:
        text = written(value, MAX_PROGRESS_BYTES)
    except Exception as fault:
        raise ValueError(f"this cannot be kept as progress: {fault}") from fault
    return _null_is_none(text)


def checked_progress(text: bytes) -> bytes:
    """Return what a program wrote, as it is kept. Raises: ValueError: as `progress_of`."""
    text = text.strip()
    if len(text) > MAX_PROGRESS_BYTES:
        raise ValueError(f"this cannot be kept as progress: it takes more than {MAX_PROGRESS_BYTES} bytes")
    try:
        finish(checking_json(text))
    except CallError as error:
        raise ValueError(f"this cannot be kept as progress: {error}") from None
    if is_deeper(text, MAX_LEVELS):
        raise ValueError(f"this cannot be kept as progress: it has more than {MAX_LEVELS} levels of arrays and objects")
    return _null_is_none(text)


def _null_is_none(text: bytes) -> bytes:
    return NO_PROGRESS if text == _NULL else text
