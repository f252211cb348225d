"""Python values to the JSON of a call. What JSON has no word for is refused: the encoder writes NaN and Infinity as null."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from os import PathLike
from types import NoneType
from typing import Any
from uuid import UUID

import msgspec

from kqs.client.address import MAX_PORT, Address
from kqs.errors import CallError
from kqs.made.plain import plain
from kqs.options import MAX_SECONDS
from kqs.wire.steps import finish
from kqs.wire.strict import refusing

_decode = msgspec.json.Decoder().decode
_skim = msgspec.json.Decoder(msgspec.Raw).decode

#: what holds no number, and what the encoder makes text of
_PLAIN_TYPES = (bytes, bytearray, datetime, date, time, timedelta, UUID, Decimal)
_PLAIN = (*_PLAIN_TYPES, str, int, NoneType, memoryview, msgspec.Raw, Enum)


_encode = msgspec.json.Encoder(enc_hook=plain).encode


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


def decoded(text: bytes | msgspec.Raw) -> Any:
    """Return what the server, or a job, says in JSON.

    Raises: CallError: `bad_json`: it has a number that no float can hold; JSON may, and data is kept as it was inserted.
    """
    try:
        return _decode(text)
    except msgspec.DecodeError:
        raise CallError("it has a number that no float can hold", "bad_json") from None


def check_seconds(name: str, value: object, *, is_bounded: bool = False) -> None:
    """Refuse a time-out that no clock can keep.

    Raises: ValueError: no number above 0 and up to MAX_SECONDS; None, for ever, is fine, unless it `is_bounded`.
    """
    if (value is None and not is_bounded) or (
        isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_SECONDS
    ):
        return
    ever = "" if is_bounded else ", or None for ever"
    raise ValueError(f"{name}: expected a number of seconds above 0 and up to {MAX_SECONDS}{ever}, got {value!r:.60}")


def check_count(name: str, value: object) -> None:
    """Refuse what is no number of things, or none of them. Raises: ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}: expected a whole number from 1, got {value!r:.60}")


def check_address(address: object) -> None:
    """Refuse what names no server. Raises: ValueError: it is no Address, or has a host, port or path that none can be."""
    if not isinstance(address, Address):
        raise ValueError(f"address: expected a kqs.client.Address, which parse_address makes of a text, got {address!r:.60}")
    host, port, socket = address
    if not isinstance(host, str) or not host:
        raise ValueError(f"host: expected a name or number as text, got {host!r:.60}")
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= MAX_PORT:
        raise ValueError(f"port: expected a whole number from 1 to {MAX_PORT}, got {port!r:.60}")
    if not isinstance(socket, str | PathLike):
        raise ValueError(f"socket: expected the path of a UNIX socket, got {socket!r:.60}")


def check_json(arg: object) -> None:
    """Refuse what is not the JSON of an argument: its line would be answered without the call's id.

    Raises: ValueError: no bytes. CallError: bad_json.
    """
    if not isinstance(arg, bytes):
        raise ValueError(f"arg: expected JSON as bytes, got {arg!r:.60}")
    try:
        _skim(arg)
    except (ValueError, RecursionError) as error:
        raise finish(refusing(arg, error)) from None


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
        yield from _unspeakable(msgspec.to_builtins(value, builtin_types=_PLAIN_TYPES, enc_hook=plain), where)


def without_none(**fields: Any) -> dict[str, Any]:
    """Return those fields that are given."""
    return {name: value for name, value in fields.items() if value is not None}


def names(types: Sequence[str]) -> list[str]:
    """Return the types. Raises: ValueError: they are one text, whose letters would be taken for them."""
    if isinstance(types, str):
        raise ValueError(f"types: expected a list of names, got {types!r:.60}")
    return list(types)
