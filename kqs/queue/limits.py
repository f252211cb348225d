"""How many jobs of a type may begin: its limits, and what they have left. Pure; whoever calls says when it is.

A job has a *place* of its type from the moment it is claimed, or about to be, until its run is over, and a *slot* from when
that begins. `concurrency` bounds the slots that are taken here, `max_running` those over all servers: where these share a
store, it is what the store has granted to this one. There are as many places as slots, and where all who take the type can let
claimed runs wait, and nothing is granted, as many more as got through in `AHEAD_S` lately: a claim costs a commit, for which a
few short runs at a time would wait. `rate` gives *tokens*, of which each claim takes one, and a claim that comes to nothing
gives it back. A type is *closed* while it has no place or no token left. A job is known by its *key*, which no other has: its
order some job of another server may have as well. Invariants:

1. A job has one place at most, and one slot; what it gives back is what it has by that claim. A slot goes with a place.
2. No place is taken of a closed type, but by what runs already, wherever it was claimed.
3. No run begins without a slot, or while as many have one as may.
4. In any span of s seconds at most `burst` + s times the rate are taken that are not given back; after a start there are none.
5. A type without limits is not in `gates`, and nothing is kept of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import NamedTuple

from kqs.queue.gate import NO_LIMIT, Gate, Granted, Limit


class Reached(NamedTuple):
    """Which limit of a type is reached. value: what it is set to. running: what runs of the type here.

    next_at: when the next token comes, monotonic, in s; None: that is not what is missing.
    """

    name: str
    value: float
    running: int
    next_at: float | None = None


class Limits:
    """All gates. Call from the loop thread."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        #: of the types that have limits; falsy while none has
        self.gates: dict[str, Gate] = {}
        #: the types of which nothing may begin now
        self.closed: set[str] = set()
        self._elsewhere: dict[str, int] = {}
        #: told that a slot has become free which a claimed run waits for
        self.on_slot: Callable[[str], None] = _nobody
        #: told of types that are not closed any more
        self.on_open: Callable[[Collection[str]], None] = _nobody
        #: told that a type has no place or token left
        self.on_closed: Callable[[str, Gate], None] = _nobody
        #: told that a new job might begin, if its type were not closed
        self.on_missed: Callable[[str], None] = _nobody

    def set(
        self, limits: Mapping[str, Limit], running: Callable[[str], Iterable[tuple[Hashable, int]]], *, is_shared: bool = False
    ) -> None:
        """Have these limits, and no others, from now on.

        Args: running: returns the keys and attempts of what runs of a type that had none. is_shared: what is bounded over
            all servers is granted (`grant`, `bring`).
        """
        now, opened = self._monotonic(), [type_ for type_ in self.closed if type_ not in limits]
        for type_ in self.gates.keys() - limits.keys():
            gone = self.gates.pop(type_)
            self.closed.discard(type_)
            self._call(type_, gone)
        for type_, limit in limits.items():
            gate = self.gates.get(type_)
            if gate is None:
                gate = self.gates[type_] = Gate(limit, now, is_shared=is_shared, is_alone=type_ not in self._elsewhere)
                gate.places.update(running(type_))
                gate.slots.update(gate.places)
            elif gate.limit != limit:
                gate.set(limit, now)
            opened += self._settle(type_, gate)
            self._call(type_, gate)
        if opened:
            self.on_open(opened)

    def take_elsewhere(self, types: Iterable[str], change: int) -> None:
        """Count who takes these types and cannot let a claimed run wait for its slot: one more, or one less."""
        for type_ in types:
            count = self._elsewhere[type_] = self._elsewhere.get(type_, 0) + change
            if not count:
                del self._elsewhere[type_]
            if (gate := self.gates.get(type_)) is not None:
                gate.set_alone(not count)
                if opened := self._settle(type_, gate):
                    self.on_open(opened)

    def grant(self, type_: str, shared: int) -> None:
        """Take in how many of a type may run here of all that run on some server."""
        gate = self.gates.get(type_)
        if gate is not None and gate.shared is not None and gate.shared != shared:
            gate.share(shared)
            if opened := self._settle(type_, gate):
                self.on_open(opened)
            self._call(type_, gate)

    def bring(self, type_: str, count: int) -> None:
        """Take in that tokens of a type were granted."""
        gate = self.gates.get(type_)
        if gate is not None and type(gate.bucket) is Granted and count:
            gate.bucket.grant(count, self._monotonic())
            gate.is_dry = False
            if opened := self._settle(type_, gate):
                self.on_open(opened)

    def left(self, type_: str) -> int:
        """Return how many more of a type may be claimed."""
        gate = self.gates.get(type_)
        if gate is None:
            return NO_LIMIT
        left = gate.left(self._monotonic())
        if not left and not gate.is_closed:
            self._lose_tokens(type_, gate)
        return left

    def has(self, type_: str, key: Hashable) -> bool:
        """Tell whether a job has a place."""
        gate = self.gates.get(type_)
        return gate is not None and key in gate.places

    def take(self, type_: str, key: Hashable, by: object) -> bool:
        """Give a job a place, and a token; False: there is none, or it has one already."""
        gate = self.gates.get(type_)
        if gate is None:
            return True
        if key in gate.places or gate.is_closed:
            return False
        bucket = gate.bucket
        if bucket is not None:
            left = bucket.left(self._monotonic())
            if left:
                bucket.add(-1)
            if left <= 1:
                gate.is_dry = True
            if not left:
                self._lose_tokens(type_, gate)
                return False
            gate.paid.add(key)
        gate.places[key] = by
        if gate.is_closed:
            self._settle(type_, gate)
        return True

    def _lose_tokens(self, type_: str, gate: Gate) -> None:
        """Close a type that has kept its granted tokens for too long, and ask for others."""
        gate.is_dry = True
        self._settle(type_, gate)
        self.on_missed(type_)

    def claim(self, type_: str, key: Hashable, attempt: int) -> None:
        """Take in that a job was claimed, whether or not there was a place for it."""
        gate = self.gates.get(type_)
        if gate is not None:
            gate.places[key] = attempt
            self._settle(type_, gate)

    def hold(self, type_: str, key: Hashable, attempt: int) -> None:
        """Take in that a job runs, whether or not there was a slot for it."""
        gate = self.gates.get(type_)
        if gate is not None:
            gate.slots.add(key)
            if gate.places.get(key) != attempt:
                self.claim(type_, key, attempt)

    def is_kept(self, type_: str, key: Hashable, attempt: int) -> bool:
        """Tell whether a claimed run has its place, and a slot or one to be had."""
        gate = self.gates.get(type_)
        if gate is None or gate.places.get(key) != attempt:
            return False
        return len(gate.slots) < gate.cap or (key in gate.slots and len(gate.slots) <= gate.cap)

    def may_begin(self, type_: str, key: Hashable, attempt: int) -> bool:
        """Give a claimed run a slot, or let it keep the one that it has; False: there is none.

        There is none while more are taken than may be, since that was changed: then it leaves the one that it has, which others
        wait for. A run that was claimed while its type had no limits takes no token.
        """
        gate = self.gates.get(type_)
        if gate is None:
            return True
        if len(gate.slots) - (key in gate.slots) >= gate.cap:
            gate.slots.discard(key)
            return False
        self.hold(type_, key, attempt)
        return True

    def free(self, type_: str, key: Hashable, by: object, *, is_unused: bool = False) -> None:
        """Take back what `by` has, if it has: place and slot, and the token, if nothing has begun with that."""
        gate = self.gates.get(type_)
        if gate is None or gate.places.get(key) != by:
            return
        del gate.places[key]
        gate.slots.discard(key)
        is_tuned = not is_unused and gate.tune(self._monotonic())
        if gate.bucket is not None and key in gate.paid:
            gate.paid.discard(key)
            if is_unused:
                gate.bucket.add(1)
                gate.is_dry = gate.is_dry and not gate.bucket.is_open(self._monotonic())
        if (is_tuned or type_ in self.closed) and (opened := self._settle(type_, gate)):
            self.on_open(opened)
        self._call(type_, gate)

    def await_slot(self, type_: str, is_awaited: bool) -> None:
        """Take in whether a claimed run of a type waits for a slot: `on_slot` is called when there is one."""
        gate = self.gates.get(type_)
        if gate is not None:
            gate.is_awaited = is_awaited

    def get_stuck(self, type_: str) -> None:
        """Take in that claimed runs of a type wait too long for a slot."""
        gate = self.gates.get(type_)
        if gate is not None:
            gate.get_stuck(self._monotonic())
            self._settle(type_, gate)

    def open_due(self) -> float | None:
        """Open the types whose tokens have come; return when to look again, monotonic, in s."""
        now, opened, next_at = self._monotonic(), list[str](), math.inf
        for type_ in list(self.closed):
            gate = self.gates[type_]
            if not gate.is_dry or gate.bucket is None:
                continue
            if gate.bucket.is_open(now):
                gate.is_dry = False
                opened += self._settle(type_, gate)
            else:
                next_at = min(next_at, gate.bucket.opens_at)
        if opened:
            self.on_open(opened)
        return None if next_at == math.inf else next_at

    def reached(self, type_: str) -> Reached | None:
        """Return which limit keeps more jobs of a type from beginning; None: none does."""
        gate = self.gates.get(type_)
        if gate is None or not gate.is_closed:
            return None
        limit = gate.limit
        running = max(len(gate.slots), min(len(gate.places), gate.cap))  # more than the cap where that was lowered
        if len(gate.places) >= gate.places_count:
            if limit.concurrency is not None and gate.cap == limit.concurrency:
                return Reached("concurrency", limit.concurrency, running)
            assert limit.max_running is not None, "the other that gives slots"
            return Reached("max_running", limit.max_running, running)
        bucket = gate.bucket
        assert bucket is not None, "else it is open"
        return Reached("rate", limit.rate or 0.0, running, None if type(bucket) is Granted else bucket.opens_at)

    def _call(self, type_: str, gate: Gate) -> None:
        if gate.is_awaited and (len(gate.slots) < gate.cap or type_ not in self.gates):
            self.on_slot(type_)

    def _settle(self, type_: str, gate: Gate) -> list[str]:
        """List a type as closed or not; return it if it was and is not any more."""
        if gate.is_closed:
            self.closed.add(type_)
            self.on_closed(type_, gate)
        elif type_ in self.closed:
            self.closed.discard(type_)
            return [type_]
        return []


def _nobody(*_told: object) -> None:
    return None
