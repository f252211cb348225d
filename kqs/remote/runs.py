"""A run that somebody elsewhere has in hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kqs.job import Run
from kqs.queue.leases import Lease

if TYPE_CHECKING:
    from kqs.remote.party import Order, Party


class OpenRun:
    """One run. order: what it was asked for by, which has room for another when this is over; None: nothing has."""

    __slots__ = ("lease", "order", "party", "run", "token")

    def __init__(self, run: Run, token: str, party: Party, order: Order | None) -> None:
        self.run = run
        self.token = token
        self.party = party
        self.order = order
        self.lease: Lease
