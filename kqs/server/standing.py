"""The calls of one connection that stand: what they have asked for, by the ids of the calls, and the runs they brought."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from kqs.remote import Desk, Order, Party
from kqs.wire.call import Call

#: `reserve` and `work` calls of one connection that may stand at a time
MAX_STANDING = 100


class _Stood(NamedTuple):
    order: Order
    withdrawn: Callable[[], None]


class Standing:
    """See the module docstring. Nothing is made for a connection that never asks for a job."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._party: Party | None = None
        #: tells where the peer is, for people
        self.where: Callable[[], str] = str
        self._by_id: dict[str | int | float, _Stood] = {}
        #: there is nobody to ask any more
        self.has_ended = False

    @property
    def party(self) -> Party:
        """Return who asks."""
        if self._party is None:
            self._party = self._desk.party(self.where())
        return self._party

    @property
    def is_full(self) -> bool:
        """Tell whether no more may stand."""
        return self._party is not None and self._party.orders_count >= MAX_STANDING

    def add(self, call: Call, order: Order, withdrawn: Callable[[], None]) -> None:
        """Let an order be found by the id of its call. withdrawn: answers the call."""
        if call.id is not None and not order.is_over:
            if len(self._by_id) > 2 * MAX_STANDING:
                self._by_id = {key: stood for key, stood in self._by_id.items() if not stood.order.is_over}
            with contextlib.suppress(msgspec.DecodeError):  # a number beyond all
                self._by_id[msgspec.json.decode(call.id)] = _Stood(order, withdrawn)

    def withdraw(self, call_id: str | int | float) -> bool:
        """End the standing call with this id; False: none stands."""
        stood = self._by_id.pop(call_id, None)
        if stood is None or not stood.order.withdraw():
            return False
        stood.withdrawn()
        return True

    def end(self) -> None:
        """Answer all that stand: there is nobody to ask any more, or nothing to be had."""
        self.has_ended = True
        if self._party is not None:
            self._party.end_orders()

    def leave(self) -> None:
        """Take back what the connection had: it is lost."""
        if self._party is not None:
            self._party.leave("the worker's connection was lost")

    def pause(self) -> None:
        """Bring nothing more for now: the peer does not take what it got."""
        if self._party is not None:
            self._party.pause()

    def resume(self) -> None:
        """Bring more again."""
        if self._party is not None:
            self._party.resume()
