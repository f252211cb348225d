"""What the envelopes of both dialects share: one line -> the raw values of a few known keys, or what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec
from msgspec import Raw

from kqs.errors import CallError
from kqs.wire import strict
from kqs.wire.members import Reader, walking
from kqs.wire.scan import SHORT_BYTES
from kqs.wire.steps import Steps
from kqs.words.nearest import unknown_name

MAX_ID_BYTES = 200  # it is echoed with every answer

_ID = re.compile(rb'"|-?[0-9]')

_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode


class Envelope(msgspec.Struct, gc=False):
    """found: the values of the known keys, of a repeated one the last. fault: what is to be said of an unknown or repeated key.

    No error stands in it: that would hold the frame it is raised from, and so the line, in a circle that is never collected.
    Of a long object with a fault, `found` lacks what stands far behind it.
    """

    found: dict[str, Raw]
    fault: str | None = None


def reading(text: bytes, reader: Reader, once: tuple[str, ...], *, is_checked: bool = False) -> Steps[Envelope]:
    """Read the JSON object in `text`, in steps.

    Args: reader: of the known keys. once: those that stand at most once. is_checked: `strict` has checked the JSON of which
    `text` is a part.
    Raises: CallError: bad_json, or bad_call when it is JSON but no object.
    """
    if (found := _read_at_once(text, reader, once)) is not None:
        return Envelope(found)
    if not is_checked:
        yield from strict.checking_json(text)
    if not text.lstrip().startswith(b"{"):
        raise CallError(f"expected a call as a JSON object, got {strict.shown(text)}")
    envelope = Envelope({})
    seen = set()
    for member in walking(text, reader, envelope.found):
        if member is None:
            yield
        elif member.key not in reader.keys:
            envelope.fault = unknown_name("key", member.key, reader.keys)
            break
        elif member.key in once and member.key in seen:
            envelope.fault = f"{member.key}: stands twice"
            break
        else:
            seen.add(member.key)
    return envelope


def _read_at_once(text: bytes, reader: Reader, once: tuple[str, ...]) -> dict[str, Raw] | None:
    """Return the values of a short object that is beyond doubt."""
    if len(text) > SHORT_BYTES or text.count(b"[") + text.count(b"{") > strict.MAX_DEPTH:
        return None
    try:
        found: dict[str, Raw] = _decode_object(text)
    except (ValueError, RecursionError):
        return None
    if not strict.is_clean_text(text) or not all(key in reader.keys for key in found):
        return None
    keys = {reader.quoted[key]: key in found for key in once}
    return None if strict.may_hold_unseen(text, keys, [*found.values()]) else found


def name_of(key: str, found: Mapping[str, Raw]) -> str:
    """Return the name of the call, which stands under `key`.

    Raises: CallError: bad_call; it is missing or no text.
    """
    if key not in found:
        raise CallError(f"{key}: missing, expected the name of a call")
    return text_of(key, found[key])


def text_of(key: str, raw: Raw) -> str:
    """Return the text that `raw` is in JSON.

    Raises: CallError: bad_call; it is none.
    """
    try:
        return _decode_text(raw)
    except msgspec.ValidationError:
        raise CallError(f"{key}: expected a text, got {strict.shown(raw)}") from None


def check_id(raw: Raw) -> Raw:
    """Return a call's id as it came.

    Raises: CallError: bad_call; it is no text or number of at most MAX_ID_BYTES.
    """
    if len(raw) > MAX_ID_BYTES or not _ID.match(raw):
        raise CallError(f"id: expected a text or number of at most {MAX_ID_BYTES} bytes, got {strict.shown(raw)}")
    return raw
