"""Python values to the JSON of a call. What JSON has no word for is refused: the encoder writes NaN and Infinity as null."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from types import NoneType
from typing import Any
from uuid import UUID

import msgspec

from kqs.errors import CallError

_encode = msgspec.json.Encoder().encode

#: what holds no number, and what the encoder makes text of
_PLAIN_TYPES = (bytes, bytearray, datetime, date, time, timedelta, UUID, Decimal)
_PLAIN = (*_PLAIN_TYPES, str, int, NoneType, memoryview, msgspec.Raw, Enum)


def encode(value: Any, code: str) -> bytes:
    """Return `value` as one line of JSON.

    Raises: CallError: with this code: a number in it is NaN or infinite; the message names the field.
                       Or a text in it is no Unicode.
            TypeError: it is nothing that JSON can say.
    """
    try:
        text = _encode(value)
    except UnicodeEncodeError as error:
        raise CallError(f"{error.object[error.start]!a}: half of a surrogate pair is no Unicode", code) from None
    if b"null" in text and (found := next(_unspeakable(value), None)) is not None:
        where, number = found
        raise CallError(f"{where or 'argument'}: expected a finite number, got {number}", code)
    return text


def check_seconds(name: str, value: float | None) -> None:
    """Refuse a time-out that no clock can keep.

    Raises: ValueError: NaN, infinite, or not above 0; None, for ever, is fine.
    """
    if value is not None and not 0 < value < math.inf:
        raise ValueError(f"{name}: expected a finite number of seconds above 0, or None for ever, got {value}")


def _unspeakable(value: Any, where: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, float):
        if not math.isfinite(value):
            yield where, value
    elif isinstance(value, dict):
        for key, member in value.items():
            yield from _unspeakable(member, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple | set | frozenset):
        for index, member in enumerate(value):
            yield from _unspeakable(member, f"{where}[{index}]")
    elif not isinstance(value, _PLAIN):
        yield from _unspeakable(msgspec.to_builtins(value, builtin_types=_PLAIN_TYPES), where)
