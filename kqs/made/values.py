"""Values that handlers have made, as JSON. They are the author's, and may do anything when they are looked at."""

from __future__ import annotations

import inspect
import json
from decimal import Decimal
from typing import Any

import msgspec

from kqs.made.models import is_model
from kqs.made.plain import plain
from kqs.wire.strict import MAX_DEPTH, is_clean_text, is_deeper

#: levels of arrays and objects: a line that brings a value has four of its own at most
MAX_LEVELS = MAX_DEPTH - 4


def _encode_other(value: Any) -> Any:
    if is_model(value):
        return value.model_dump(mode="json")
    if inspect.iscoroutine(value):
        value.close()
        raise TypeError("it is a coroutine; make the handler an `async def`")
    return plain(value)


_encode_json = msgspec.json.Encoder(enc_hook=_encode_other).encode
_skim = msgspec.json.Decoder(msgspec.Raw).decode


def written(value: object, most_bytes: int) -> bytes:
    """Return a value as JSON that may stand in a line, and has no line breaks.

    Raises: anything: it cannot be; the message says why.
    """
    text = _encode_json(value)
    if len(text) > most_bytes:
        raise ValueError(f"it takes {len(text)} bytes, and {most_bytes} are allowed")
    _skim(text)  # msgspec.Raw is written as it is
    if b"\n" in text or b"\r" in text:
        text = msgspec.json.format(text, indent=-1)
    if not text.isascii():
        text.decode()
    if b"\\u" in text and not is_clean_text(text):  # of msgspec.Raw
        raise ValueError("it has half of a surrogate pair")
    if is_deeper(text, MAX_LEVELS):
        raise ValueError(f"it has more than {MAX_LEVELS} levels of arrays and objects")
    if b"null" in text or b"NaN" in text or b"Infinity" in text:
        _refuse_what_is_no_number(value)
    return text


def _refuse_what_is_no_number(value: object) -> None:
    """Raise ValueError if `null`, or the text NaN or Infinity, is what became of a number that JSON does not have."""
    values = msgspec.to_builtins(value, builtin_types=(Decimal,), str_keys=True, enc_hook=_numbers_of)
    try:
        json.dumps(values, allow_nan=False, check_circular=False, default=_refuse_decimal)  # the quickest walk there is
    except ValueError:
        raise ValueError("NaN and Infinity are no numbers in JSON") from None


def _refuse_decimal(value: Decimal) -> None:
    if not value.is_finite():
        raise ValueError


def _numbers_of(value: Any) -> Any:
    """Return what has the numbers of a value that msgspec does not know; not msgspec.Raw, which was skimmed."""
    if is_model(value):
        return _numbers_in(value.model_dump())
    return plain(value) if isinstance(value, (int, float)) else None


def _numbers_in(value: Any) -> list[float | Decimal]:
    """Return the numbers in a model's plain data: in its JSON they may be null, or text."""
    if isinstance(value, dict):
        return [found for one in value.values() for found in _numbers_in(one)]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [found for one in value for found in _numbers_in(one)]
    return [value] if isinstance(value, (float, Decimal)) else []
