"""What the servers of one store share of the limits of types: a part of the store port, which only a shared store has."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Share(NamedTuple):
    """How the slots of a type are shared. ours: how many this server has.

    short: how many others share, where one of them wants more; else 0. is_short: this one has asked for more than there were.
    """

    ours: int
    short: int
    is_short: bool = False


class Sharing(Protocol):
    """What the servers of one store share of the limits of types. What a dead one had comes back when that is known."""

    async def look(self) -> dict[str, Share]:
        """Return how the slots of each type are shared."""
        ...

    async def slots(self, type_: str, wanted: int, most: int, *, is_forced: bool = False) -> int:
        """Have so many slots of a type, as far as all servers have no more than `most` then; fewer are given back at once.

        Args: is_forced: have them however many others have: they are in use. Returns: how many it has now.
        """
        ...

    async def tokens(self, type_: str, per_second: float, burst: float) -> int:
        """Take the tokens of a type that have come since any server took some, `burst` at most; return how many."""
        ...
