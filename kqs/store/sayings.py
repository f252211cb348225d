"""What owners have said of types, as a store keeps it: a part of the store port. What it means is for others to know."""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol


class Topic(IntEnum):
    """On what owners have their say beside the configuration. The numbers are stored."""

    LIMITS = 0  # of a type: kqs.queue.limiting
    OPTIONS = 1  # of a type, or under the empty name of all types: kqs.queue.configuring


class SayingsPort(Protocol):
    """All of it is by type, the same for all servers of the store, and raises as the store port says."""

    async def suspend(self, type_: str, at: float) -> bool:
        """Keep that jobs of this type wait from `at` on, until `resume`; durable before it returns. The type need have none.

        What the store does with jobs is the same for all types: which may be claimed is no question of its own.
        Returns: False: it is kept already, with the `at` of the first time.
        """
        ...

    async def resume(self, type_: str) -> bool:
        """Keep that no more; durable before it returns. Returns: False: it was not kept."""
        ...

    async def suspended(self) -> dict[str, float]:
        """Return the types that are kept as suspended, by whichever server, and since when, in Unix seconds."""
        ...

    async def subscribe(self, type_: str, subscriber: str) -> bool:
        """Keep that this type has a subscriber; durable before it returns. What is inserted is no question of the store's.

        Returns: False: it is kept already.
        """
        ...

    async def unsubscribe(self, type_: str, subscriber: str) -> bool:
        """Keep that no more; durable before it returns. Returns: False: it was not kept."""
        ...

    async def subscriptions(self) -> dict[str, list[str]]:
        """Return the subscribers that are kept, by whichever server, sorted, of each type that has some."""
        ...

    async def say(self, topic: Topic, type_: str, text: bytes | None) -> bool:
        """Keep what an owner has said of a type, in the place of what was kept on this topic; None: nothing any more.

        Durable before it returns. What it says is no question of the store's. Returns: whether something was kept before.
        """
        ...

    async def said(self, topic: Topic) -> dict[str, bytes]:
        """Return what is kept on this topic by type, whichever server was told."""
        ...
