"""The argument of a call -> a struct, or an error that names the field, what was expected and what came. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar, TypeVar

import msgspec
from msgspec import Raw

from kqs.errors import CallError
from kqs.options import MAX_TYPE_BYTES, expected, field_types
from kqs.wire import strict
from kqs.wire.call import POSITIONAL, Call
from kqs.wire.members import check_keys
from kqs.words.nearest import unknown_name

#: Longest argument of most calls, in bytes: a dozen names, each of their characters escaped.
MAX_ARGUMENT_BYTES = 80 * MAX_TYPE_BYTES
#: Faults told of one argument.
_MAX_FAULTS = 5

_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all arguments: unknown fields are refused, and nothing is coerced."""

    MAX_BYTES: ClassVar[int] = MAX_ARGUMENT_BYTES
    #: a list is the argument itself, not parameters by position
    TAKES_LIST: ClassVar[bool] = False
    #: how many may come by position; None: all, if there is no more than one
    BY_POSITION: ClassVar[int | None] = None
    #: the field that is meant where text stands in the place of an object
    BARE: ClassVar[str | None] = None
    #: by field, what raises ValueError for a value that its type allows and that cannot be
    RULES: ClassVar[Mapping[str, Callable[[Any], None]]] = {}
    #: by type that JSON does not have, what makes one of a value; it raises ValueError where that is none
    OWN: ClassVar[Mapping[type, Callable[[Any], Any]]] = {}

    @classmethod
    def spread(cls, value: Any) -> Any:
        """Return the fields that an argument means which may be no object."""
        return {cls.BARE: value} if cls.BARE is not None and isinstance(value, str) else value

    def check(self) -> None:
        """Raises: ValueError: the fields do not go together."""


AnyParameters = TypeVar("AnyParameters", bound=Parameters)


def argument_of(call: Call, most_bytes: int | None = None) -> bytes:
    """Return the argument of `call`, as JSON. Raises: CallError: it is binary data, or longer than so many bytes."""
    if call.blob is not None:
        raise CallError(f"{call.name} takes no binary data")
    if most_bytes is not None and len(call.arg) > most_bytes:
        raise CallError(f"argument: expected at most {most_bytes} bytes, got {len(call.arg)}")
    return bytes(call.arg)


def parse(model: type[AnyParameters], call: Call) -> AnyParameters:
    """Return the argument of `call` as `model`; null and an empty list are an empty object.

    JSON-RPC may give it by position, if the call has one parameter, or one that counts.
    Raises: CallError: `bad_call`, with the fields that do not fit.
    """
    raw = argument_of(call, model.MAX_BYTES)
    if raw.startswith(b"[") and not model.TAKES_LIST:
        raw = _only_member(model, call, raw)
    check_keys(raw, is_deep=True)
    try:
        value = model.spread({} if raw == b"null" else _decode_any(raw))
    except msgspec.DecodeError:
        raise CallError(_unreadable(model, raw)) from None
    if not isinstance(value, dict):
        raise CallError(f"argument: expected an object, got {strict.shown(raw)}")
    return _checked(model, value, raw)


def _unreadable(model: type[Parameters], raw: bytes) -> str:
    """Return what is wrong with JSON in which a number is none for us, as 1e400 and one of 5000 digits are."""
    place, value = "argument", raw
    members: dict[str, Raw] = _decode_object(raw) if raw.startswith(b"{") else {}
    for name, member in members.items():
        if name not in model.__struct_encode_fields__:
            return unknown_name("field", name, model.__struct_encode_fields__)
        if not _is_readable(member):
            place, value = name, bytes(member)
            break
    return f"{place}: expected no number out of range, got {strict.shown(value)}"


def _is_readable(value: Raw) -> bool:
    try:
        _decode_any(value)
    except msgspec.DecodeError:
        return False
    return True


def _checked(model: type[AnyParameters], value: dict[str, Any], raw: bytes) -> AnyParameters:
    try:
        query = msgspec.convert(value, model, dec_hook=_made_by(model))
        for name, rule in model.RULES.items():
            rule(getattr(query, name))
    except ValueError:  # msgspec's are, too
        raise CallError("; ".join(islice(_faults(model, value), _MAX_FAULTS))) from None
    try:
        query.check()
    except ValueError as error:
        raise CallError(f"argument: {error}, got {strict.shown(raw)}") from None
    return query


def _only_member(model: type[Parameters], call: Call, raw: bytes) -> bytes:
    """Return the one parameter that a list gives by position; null for none."""
    members = _decode_list(raw)
    if not members:
        return b"null"
    known = len(model.__struct_fields__) if model.BY_POSITION is None else model.BY_POSITION
    if known > 1 or call.dialect not in POSITIONAL:
        raise CallError(f"{call.name} takes its parameters by name, as an object, got {strict.shown(raw)}")
    if len(members) > known:
        raise CallError(f"{call.name} takes {known or 'no'} parameter{'s' * (not known)}, got {strict.shown(raw)}")
    return bytes(members[0])


def _faults(model: type[Parameters], value: Mapping[str, Any]) -> Iterator[str]:
    """Give what is wrong with each field. msgspec only ever says whether something fits: its messages are no interface."""
    for field in msgspec.structs.fields(model):
        if field.encode_name in value:
            if (fault := _fault(model, field.encode_name, value[field.encode_name])) is not None:
                yield f"{field.encode_name}: {fault}, got {strict.shown(_encode(value[field.encode_name]))}"
        elif field.required:
            yield f"{field.encode_name}: field required"
    known = model.__struct_encode_fields__
    yield from (unknown_name("field", name, known) for name in value if name not in known)


def _fault(model: type[Parameters], name: str, value: object) -> str | None:
    try:
        found = msgspec.convert(value, field_types(model)[name], dec_hook=_made_by(model))
        if name in model.RULES:
            model.RULES[name](found)
    except msgspec.ValidationError as error:
        return f"expected {expected(model, name)}" if error.__cause__ is None else str(error.__cause__)
    except ValueError as error:
        return str(error)
    return None


def _made_by(model: type[Parameters]) -> Callable[[type, Any], Any]:
    return lambda kind, value: model.OWN[kind](value)
