"""The calls of one connection that stand: what they have asked for, by the ids of the calls, and the runs they brought.

Those that wait for a job to end outlive the peer's end of input, since all that is left to do is to answer them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import msgspec
from msgspec import Raw

from kqs.remote import Desk, Order, Party
from kqs.wire.call import Call

#: `reserve`, `work` and `events` calls of one connection that may stand at a time
MAX_STANDING = 100
#: calls of one connection that may wait for jobs to end, at a time
MAX_WAITS = 10_000


class Wait(Protocol):
    """A call that waits for a job to end."""

    def refuse(self, code: str, message: str) -> None:
        """Answer it without the end of the job."""
        ...

    def leave(self) -> None:
        """Forget it: nobody is there to be answered."""
        ...


class Listening(Protocol):
    """A call that hears of events."""

    @property
    def is_over(self) -> bool:
        """Tell whether it hears nothing more."""
        ...

    def withdraw(self) -> bool:
        """Hear nothing more. False: that was so before."""
        ...

    def pause(self) -> None:
        """Say nothing for now."""
        ...

    def resume(self) -> None:
        """Go on."""
        ...


class _Stood(NamedTuple):
    order: Order | Listening
    withdrawn: Callable[[], None]


class Standing:
    """See the module docstring. Nothing is made for a connection that never asks for a job."""

    def __init__(self, desk: Desk, where: Callable[[], str]) -> None:
        """Args: where: tells where the peer is, for people."""
        self._desk = desk
        self._where = where
        #: who asks; None: nobody has, for jobs
        self.party: Party | None = None
        #: called when somebody asks for jobs, for the first time
        self.on_worker: Callable[[], None] = lambda: None
        self._by_id: dict[str | int | float, list[_Stood]] = {}  # several may have one, the latest last
        self._listening: dict[Listening, Callable[[], None]] = {}
        self._is_paused = False
        #: calls that wait for jobs to end, by their ids where they have one
        self._waits: dict[Wait, str | int | float | None] = {}
        self._waits_by_id: dict[str | int | float, dict[Wait, None]] = {}  # as above
        #: there is nobody to ask any more
        self.has_ended = False

    def asking(self) -> Party:
        """Return who asks for jobs, from now on."""
        if self.party is None:
            self.party = self._desk.party(self._where())
            self.on_worker()
        return self.party

    @property
    def is_full(self) -> bool:
        """Tell whether no more may stand."""
        orders_count = 0 if self.party is None else self.party.orders_count
        return orders_count + len(self._listening) >= MAX_STANDING

    def note_heard(self) -> None:
        """Take in that whoever asks for jobs says something, whatever it is."""
        if self.party is not None and self.party.is_doubted:
            self.party.trust()

    def listen(self, call: Call, listening: Listening, ended: Callable[[], None]) -> None:
        """Let a call hear of events. ended: answers it."""
        self._listening[listening] = ended
        self.add(call, listening, ended)
        if self._is_paused:
            listening.pause()

    def add(self, call: Call, order: Order | Listening, withdrawn: Callable[[], None]) -> None:
        """Let an order be found by the id of its call. withdrawn: answers the call."""
        if (key := _key(call.id)) is not None and not order.is_over:
            if len(self._by_id) > 2 * MAX_STANDING:
                self._by_id = {key: standing for key, some in self._by_id.items() if (standing := _standing(some))}
            self._by_id[key] = [*_standing(self._by_id.get(key, ())), _Stood(order, withdrawn)]

    @property
    def is_waiting(self) -> bool:
        """Tell whether a call waits for a job to end."""
        return bool(self._waits)

    @property
    def may_wait(self) -> bool:
        """Tell whether one more may."""
        return len(self._waits) < MAX_WAITS

    def add_wait(self, call: Call, wait: Wait) -> None:
        """Let a call wait for a job to end; `end_wait` follows unless it is told to `leave`."""
        key = self._waits[wait] = _key(call.id)
        if key is not None:
            self._waits_by_id.setdefault(key, {})[wait] = None

    def end_wait(self, wait: Wait) -> None:
        """Take in that a call waits no more. Idempotent."""
        self._forget_id(wait)
        self._waits.pop(wait, None)

    def _forget_id(self, wait: Wait) -> None:
        """Let a call that waits be found by its id no more. Idempotent."""
        if (key := self._waits.get(wait)) is not None:
            self._waits[wait] = None
            of_this_id = self._waits_by_id[key]
            del of_this_id[wait]
            if not of_this_id:
                del self._waits_by_id[key]

    def refuse_waits(self, code: str, message: str) -> None:
        """Answer all that wait for jobs to end: they are not told of that any more."""
        for wait in list(self._waits):
            wait.refuse(code, message)

    def withdraw(self, call_id: str | int | float) -> bool:
        """End the standing call with this id, of several the latest; False: none stands."""
        if (waits := self._waits_by_id.get(call_id)) is not None:
            wait = next(reversed(waits))
            self._forget_id(wait)
            wait.refuse("timeout", "the call was withdrawn; the job goes on")
            return True
        some = _standing(self._by_id.pop(call_id, ()))
        if not some:
            return False
        stood = some.pop()
        if some:
            self._by_id[call_id] = some
        stood.order.withdraw()
        self._listening.pop(stood.order, None)
        stood.withdrawn()
        return True

    def end(self) -> None:
        """Answer all that stand, but those that wait for jobs to end: there is nobody to ask any more, or nothing to be had."""
        self.has_ended = True
        listening, self._listening = self._listening, {}
        for one, ended in listening.items():
            if one.withdraw():
                ended()
        if self.party is not None:
            self.party.end_orders()

    def leave(self) -> None:
        """Take back what the connection had: it is lost."""
        self.leave_waits()
        for listening in self._listening:
            listening.withdraw()
        self._listening.clear()
        if self.party is not None:
            self.party.leave("the worker's connection was lost")

    def leave_waits(self) -> None:
        """Have no call wait for a job to end: nobody is there to be answered."""
        waits, self._waits, self._waits_by_id = self._waits, {}, {}
        for wait in waits:
            wait.leave()

    def pause(self) -> None:
        """Bring nothing more for now: the peer does not take what it got."""
        self._is_paused = True
        for listening in self._listening:
            listening.pause()
        if self.party is not None:
            self.party.pause()

    def resume(self) -> None:
        """Bring more again."""
        self._is_paused = False
        for listening in list(self._listening):
            listening.resume()
        if self.party is not None:
            self.party.resume()


def _standing(some: Iterable[_Stood]) -> list[_Stood]:
    return [stood for stood in some if not stood.order.is_over]


def _key(call_id: Raw | None) -> str | int | float | None:
    """Return the id of a call as `withdraw` names it; None: it has none."""
    try:
        key: str | int | float | None = None if call_id is None else msgspec.json.decode(call_id)
    except msgspec.DecodeError:  # a number beyond all
        return None
    return key
