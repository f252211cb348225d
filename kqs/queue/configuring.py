"""What owners have said of options at run time: of those of a type, and of the defaults of all, which the store keeps.

Each stands above its own section of the configuration: defaults over `[defaults]`, a type's over `[types.NAME]`. The cascade
heeds them; other servers of the store hear of a change by looking.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from kqs.errors import CallError, StoreCorruptError
from kqs.options import Cascade, OptionFields, allowed, expected, is_option
from kqs.store.sayings import SayingsPort, Topic
from kqs.words.nearest import unknown_name
from kqs.words.printable import shortened

#: types with options by call: all are read at each look
MAX_SAID = 1000
#: under this name stand the defaults of all types; no type has it
ALL = ""

_NAMES = OptionFields.__struct_fields__
_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Configuring:
    """See the module docstring. Call from the loop thread."""

    def __init__(self, store: SayingsPort, cascade: Cascade) -> None:
        self._store = store
        self._cascade = cascade
        self._said: dict[str, dict[str, Any]] = {}
        self._turn = asyncio.Lock()

    async def say(self, type_: str, named: Mapping[str, Any]) -> bool:
        """Have options of a type, or of ALL; None takes one back. What was said of others before stays.

        Durable when it returns. False: they were so already.
        Raises: CallError: there is no such option, it cannot be so, or there are too many. StoreError: it may be so or not.
        """
        for name, value in named.items():
            _check(name, value)
        async with self._turn:
            before = self._said.get(type_, {})
            after = {name: value for name, value in {**before, **named}.items() if value is not None}
            if after == before:
                return False
            if not before and len(self._said) >= MAX_SAID:
                raise CallError(f"{MAX_SAID} types have options by this call, which is the most; reset some first", "busy")
            await self._store.say(Topic.OPTIONS, type_, _encode(after) if after else None)
            self._tell({**self._said, type_: after})
            return True

    async def reset(self, type_: str) -> bool:
        """Have the configuration's options again; durable when it returns. False: nothing else was said.

        Raises: StoreError: it may be so or not.
        """
        async with self._turn:
            was_said = await self._store.say(Topic.OPTIONS, type_, None)
            self._tell({**self._said, type_: {}})
            return was_said

    async def look(self) -> None:
        """Take in what the store says. Raises: StoreError."""
        async with self._turn:
            stored = await self._store.said(Topic.OPTIONS)
            self._tell({type_: _decoded(type_, text) for type_, text in stored.items()})

    def said(self, type_: str) -> Mapping[str, Any]:
        """Return what calls have said of a type, or of ALL."""
        return self._said.get(type_, {})

    def _tell(self, said: dict[str, dict[str, Any]]) -> None:
        said = {type_: options for type_, options in said.items() if options}
        if said != self._said:
            self._said = said
            self._cascade.configure(said.get(ALL, {}), {type_: options for type_, options in said.items() if type_ != ALL})


def _check(name: str, value: object) -> None:
    if name not in _NAMES:
        raise CallError(unknown_name("option", name, _NAMES), "bad_call")
    if not is_option(name, value):
        got = shortened(msgspec.json.encode(value).decode())
        raise CallError(f"{name}: expected {expected(OptionFields, name)}, got {got}", "bad_call")


def _decoded(type_: str, text: bytes) -> dict[str, Any]:
    """Return what a server of any version has said, as far as this one can keep to it."""
    try:
        fields = _decode(text)
    except msgspec.DecodeError as error:
        raise StoreCorruptError(f"the options of type {type_!r} in the store make no sense: {error}") from None
    return {name: value for name, said in fields.items() if name in _NAMES and (value := allowed(name, said)) is not None}
