"""What servers share of the limits of types, as a part of the port: each operation of `shares.py` goes when it is its turn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kqs.store.mongo.opened import Opened
from kqs.store.sharing import Share


class SharingInTurn:
    """See kqs.store.base.Sharing."""

    def __init__(self, there: Callable[[], Opened]) -> None:
        """Args: there: returns the store as it is open now. Raises: StoreUnavailableError: it is not."""
        self._there = there

    async def look(self) -> dict[str, Share]:
        """See Sharing.look."""
        opened = self._there()
        return await opened.lanes.look(opened.shares.look)

    async def slots(self, type_: str, wanted: int, most: int, *, is_forced: bool = False) -> int:
        """See Sharing.slots."""
        opened = self._there()
        return await opened.lanes.look(partial(opened.shares.slots, type_, wanted, most, is_forced=is_forced))

    async def tokens(self, type_: str, per_second: float, burst: float) -> int:
        """See Sharing.tokens."""
        opened = self._there()
        return await opened.lanes.look(partial(opened.shares.tokens, type_, per_second, burst))
