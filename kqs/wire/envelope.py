"""What the envelopes of both dialects share: one line -> the raw values of a few known keys, or what is wrong with it."""

from __future__ import annotations

import re
from collections import Counter

import msgspec
from msgspec import Raw

from kqs.errors import CallError
from kqs.nearest import unknown_name
from kqs.wire import strict

MAX_ID_BYTES = 200  # it is echoed with every answer

_ID = re.compile(rb'"|-?[0-9]')

_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode


def read(text: bytes) -> dict[str, Raw]:
    """Return the members of the JSON object in `text`, of a repeated key the last.

    Raises: CallError: bad_json, or bad_call when it is JSON but no object.
    """
    try:
        found: dict[str, Raw] = _decode_object(text)
    except msgspec.ValidationError:
        strict.check_json(text)
        raise CallError(f"expected a call as a JSON object, got {strict.shown(text.strip())}") from None
    except (ValueError, RecursionError) as error:
        raise strict.not_json(text, error) from None
    strict.check_text(text)
    return found


def check_keys(text: bytes, found: dict[str, Raw], known: tuple[str, ...], once: tuple[str, ...]) -> None:
    """Refuse unknown keys, and any of `once` that stands twice, in the object `text` where `read` found `found`.

    Raises: CallError: bad_call, naming the key.
    """
    for key in found:
        if key not in known:
            raise CallError(unknown_name("key", key, known))
    values = b"\n".join(found.values())
    if strict.may_hide_key(text) or any(strict.is_repeated(f'"{key}"'.encode(), text, values, key in found) for key in once):
        counts = Counter(member.key for member in strict.members(text))
        for key in once:
            if counts[key] > 1:
                raise CallError(f"{key}: stands twice")


def name_of(key: str, found: dict[str, Raw]) -> str:
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
