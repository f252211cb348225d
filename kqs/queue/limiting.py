"""The limits of types: those of the configuration, and above them what owners have said since, which the store keeps.

Here they are told to admission, which heeds them (limits.py). Other servers of the store hear of a change by looking.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from kqs.config import TakingSection
from kqs.errors import CallError, StoreCorruptError
from kqs.queue.admission import Admission
from kqs.queue.basis import Basis
from kqs.queue.gate import Limit
from kqs.queue.limits import Reached
from kqs.queue.rates import RateTimer
from kqs.queue.runs import Runs
from kqs.queue.sharer import Sharer
from kqs.store.sayings import Topic

#: all of them are read at each look
MAX_SAID = 1000

_encode = msgspec.json.Encoder().encode


class Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an owner has said of a type. None: that limit is lifted; UNSET: it is as the configuration has it."""

    concurrency: int | UnsetType | None = UNSET
    max_running: int | UnsetType | None = UNSET
    rate: float | UnsetType | None = UNSET
    per_s: float | UnsetType = UNSET

    def above(self, ground: Limit) -> Limit:
        """Return the limits that hold, above those of the configuration."""
        return ground._replace(**self.named())

    def named(self) -> dict[str, Any]:
        """Return what it says, by name."""
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not UNSET}


_decode = msgspec.json.Decoder(Said).decode


class Limiting:
    """See the module docstring. Call from the loop thread."""

    def __init__(self, basis: Basis, admission: Admission, runs: Runs, taking: Mapping[str, TakingSection]) -> None:
        """Args: taking: what the configuration says, by type."""
        self._store = store = basis.store
        self._admission = admission
        self._limits = limits = admission.limits
        self._runs = runs
        self._clock = basis.clock
        self._ground = {type_: limit for type_, section in taking.items() if (limit := _limit_of(section))}
        self._said: dict[str, Said] | None = None  # before the first look
        self._turn = asyncio.Lock()
        #: opens what is closed for want of a token, unless the store's servers share them
        self.rates = RateTimer(limits, basis.clock, basis.supervisor)
        self._sharer = None if store.sharing is None else Sharer(store.sharing, admission)
        limits.on_open = basis.broker.wake
        if self._sharer is None:
            limits.on_closed = self.rates.closed
        else:
            limits.on_closed = self._sharer.closed
            limits.on_missed = self._sharer.missed

    def services(self) -> dict[str, Coroutine[Any, Any, None]]:
        """Return the bodies of the tasks that it needs, by name; they run for ever."""
        return {} if self._sharer is None else {"queue-limits": self._sharer.run()}

    async def say(self, type_: str, named: Said) -> bool:
        """Have limits of a type that stand above the configuration's, and above what was said before where it is named.

        Durable when it returns. False: they were so already.
        Raises: CallError: it makes no sense, or there are too many. StoreError: it may be so or not.
        """
        async with self._turn:
            known = self._known
            before = known.get(type_)
            said = named if before is None else msgspec.structs.replace(before, **named.named())
            limit = said.above(self._ground.get(type_, Limit()))
            if named.per_s is not UNSET and limit.rate is None:
                raise CallError("per_s goes with a rate, and this type has none", "bad_call")
            if before is None and len(known) >= MAX_SAID:
                raise CallError(f"{MAX_SAID} types have limits by this call, which is the most; reset some first", "busy")
            if said == before:
                return False
            await self._store.say(Topic.LIMITS, type_, _encode(said))
            self._tell({**known, type_: said})
            return True

    async def reset(self, type_: str) -> bool:
        """Have the limits of the configuration again; durable when it returns. False: nothing else was said.

        Raises: StoreError: it may be so or not.
        """
        async with self._turn:
            was_said = await self._store.say(Topic.LIMITS, type_, None)
            self._tell({other: said for other, said in self._known.items() if other != type_})
            return was_said

    async def look(self) -> None:
        """Take in what the store says. Raises: StoreError."""
        async with self._turn:
            stored = await self._store.said(Topic.LIMITS)
            self._tell({type_: _decoded(type_, said) for type_, said in stored.items()})

    @property
    def _known(self) -> Mapping[str, Said]:
        return self._said or {}

    def _tell(self, said: dict[str, Said]) -> None:
        if said == self._said:
            return
        self._said = said
        limits = {type_: self.of(type_) for type_ in self._ground.keys() | said.keys()}
        limits = {type_: limit for type_, limit in limits.items() if limit}
        self._admission.limit(limits, self._runs.running, is_shared=self._sharer is not None)
        self._runs.ending.limited(bool(self._limits.gates))

    @property
    def types(self) -> Collection[str]:
        """Return the types that have limits, or would have if nobody had lifted them."""
        return self._ground.keys() | self._known.keys()

    def of(self, type_: str) -> Limit:
        """Return the limits of a type."""
        ground, said = self._ground.get(type_, Limit()), self._known.get(type_)
        return ground if said is None else said.above(ground)

    def reached(self, type_: str) -> Reached | None:
        """Return which limit keeps more jobs of a type from beginning here, its `next_at` in Unix seconds; None: none does."""
        found = self._limits.reached(type_)
        if found is None or found.next_at is None:
            return found
        in_s = max(0.0, found.next_at - self._clock.monotonic())
        return found._replace(next_at=round(self._clock.now() + in_s, 3))

    def shown(self, type_: str) -> dict[str, Any]:
        """Return the limits of a type as an owner is shown them: those that it has, and what runs here."""
        limit, gate = self.of(type_), self._limits.gates.get(type_)
        shown = {name: value for name, value in limit._asdict().items() if value is not None}
        if limit.rate is None:
            del shown["per_s"]
        if gate is not None:
            shown["running"] = len(gate.slots)
        if type_ in self._known:
            shown["by_call"] = True
        return shown


def _limit_of(section: TakingSection) -> Limit:
    return Limit(*(getattr(section, name) for name in Limit._fields))


def _decoded(type_: str, said: bytes) -> Said:
    try:
        return _decode(said)
    except msgspec.DecodeError as error:
        raise StoreCorruptError(f"the limits of type {type_!r} in the store make no sense: {error}") from None
