"""What the server is asked for: standing orders whose room, in all, is that of the consumer.

Every order has room for so many open runs, and no call changes that. Where the consumer has come to have more room than the
server knows of, another order is made; where it has less, all are withdrawn, and one is made in their place. One call beside
them has no room, and stands as long as the connection: which runs of withdrawn orders are to end is told to that. Invariants:

1. A run counts against the order that brought it until it is over, as the server counts.
2. What is open of an order that was withdrawn makes no room at the server: what that is worth is asked for anew.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from kqs.client.runs import Run, heard
from kqs.errors import CallError
from kqs.log import get_logger
from kqs.outpost.line import Line
from kqs.supervisor import Supervisor
from kqs.trouble import Trouble
from kqs.wire.runs import MAX_ROOM

log = get_logger("kqs.work")

#: most `work` calls that stand: the server allows 100, those that are being withdrawn included
MAX_LIVE = 20
#: after a server has refused an order, or ended one since it stops, it is asked again so late, in s
AGAIN_S = 1.0

_encode = msgspec.json.Encoder().encode


class Order:
    """One order. room: for how many runs the server has room now. is_live: it brings more."""

    __slots__ = ("is_live", "number", "room")

    def __init__(self, room: int) -> None:
        self.room = room
        self.is_live = True
        self.number = 0


class Orders:
    """See the module docstring. Call from the loop thread."""

    def __init__(
        self,
        line: Line,
        supervisor: Supervisor,
        given: Callable[[list[Run], Order], None],
        taken_away: Callable[[str], None],
        look: Callable[[], None],
    ) -> None:
        """Args: given, taken_away: told runs, and the token of one that is over. look: called when `fit` may do more."""
        self._line = line
        self._supervisor = supervisor
        self._given = given
        self._taken_away = taken_away
        self._look = look
        self._trouble = Trouble(log, "the server gives no jobs, trying again", "the server gives jobs again")
        self._asked: dict[str, object] = {}
        self._live: list[Order] = []
        self._is_resting = False

    def open(self, types: list[str], worker: str, *, hold: bool) -> None:
        """Let `fit` ask for jobs of these types, under this name. hold: runs outlive the connection."""
        self._asked = {"types": types, "worker": worker} | ({"hold": True} if hold else {})
        self.listen()

    def listen(self) -> None:
        """Hear of runs that are to end, whatever is asked for. A server that knows no such call refuses it, and no more."""
        if self._line.is_open and self._asked:
            arg = {name: value for name, value in self._asked.items() if name != "types"} | {"room": 0}
            self._line.call(b'"work"', _encode(arg), _nothing, self._heard_end)

    def _heard_end(self, event: msgspec.Raw) -> None:
        if isinstance(found := heard(event), str):
            self._taken_away(found)

    def fit(self, room: int, slack: int) -> None:
        """Bring the room that the server knows of to within `slack` of `room`."""
        if not self._line.is_open or self._is_resting:
            return
        known = sum(order.room for order in self._live)
        if known > room + slack or (room - known > slack and len(self._live) >= MAX_LIVE):
            self.withdraw()
            known = 0
        if room - known <= slack:
            return
        for _ in range(MAX_LIVE - len(self._live)):
            if known < room:
                known += self._ask(min(room - known, MAX_ROOM))

    def withdraw(self, told: Callable[[], None] | None = None) -> None:
        """Ask for nothing more. told: called when nothing more will come."""
        orders, self._live = self._live, []

        def answered(_answer: msgspec.Raw | CallError | None) -> None:
            if told is not None:
                told()

        for order in orders:
            order.is_live = False
            self._line.call(b'"withdraw"', b'{"call":%d}' % order.number, answered if order is orders[-1] else _nothing)
        if not orders and told is not None:
            told()

    def lose(self) -> None:
        """Take in that the connection is lost, and every order with it."""
        for order in self._live:
            order.is_live = False
        self._live = []

    def _ask(self, room: int) -> int:
        order = Order(room)
        arg = _encode(self._asked | {"room": room})

        def event(event: msgspec.Raw) -> None:
            found = heard(event)
            if isinstance(found, str):
                self._taken_away(found)
                return
            order.room -= len(found)
            self._trouble.over()
            self._given(found, order)

        order.number = self._line.call(b'"work"', arg, lambda end: self._ended(order, end), event)
        self._live.append(order)
        return room

    def _ended(self, order: Order, end: msgspec.Raw | CallError | None) -> None:
        if not order.is_live:
            return
        order.is_live = False
        self._live.remove(order)
        if end is None:  # with its connection
            return
        if isinstance(end, CallError):
            self._trouble.met(code=end.call_code, error=str(end))
        if not self._is_resting:
            self._is_resting = True
            self._supervisor.call_later(AGAIN_S, "orders", self._rested)

    def _rested(self) -> None:
        self._is_resting = False
        self._look()


def _nothing(_answer: msgspec.Raw | CallError | None) -> None:
    return None
