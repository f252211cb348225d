"""The broker port: which jobs are ready, and in what order. A hint, never the only copy.

A broker may lose, repeat or reorder entries; the queue puts again what is missing and the store's claim refuses repeats.
Within a type, lower (prio, order) comes first. Between types, `reserve` takes fair turns in proportion to weights.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol

from kqs.job import Entry

#: asks the store for ready jobs of a type: (type, after rank or None, limit) -> entries in rank order
Refill = Callable[[str, tuple[int, int] | None, int], Awaitable[list[Entry]]]


class Broker(Protocol):
    """See the module docstring. `tests/contract/broker_contract.py` states every promise as a test."""

    #: entries come with their options, and with data of up to so many bytes; None: with neither
    body_bytes: int | None

    async def start(self, refill: Refill, waiting: Mapping[str, int], store_id: str = "") -> None:
        """Begin. `waiting`: how many ready jobs the store may hold per type; the broker fetches them when it needs them.

        store_id: of the store whose jobs these are, since others may share the broker's servers.
        """
        ...

    async def close(self) -> None:
        """Give back what is held and end. Idempotent; tolerates never started."""
        ...

    async def put(self, entries: Sequence[Entry]) -> None:
        """Offer ready jobs. The store has them already (that is what makes dropping them safe)."""
        ...

    async def recheck(self, types: Collection[str]) -> None:
        """Look in the store for ready jobs of these types: others may have stored some that were never put."""
        ...

    async def reserve(self, weights: Mapping[str, int], count: int, most_of: Callable[[str], int] | None = None) -> list[Entry]:
        """Take up to `count` entries of the types in `weights`, in fair turns; [] when none is ready now.

        Args: most_of: returns how many of a type are wanted at most, 0 or more; None: as many as there are.
        """
        ...

    async def wait_ready(self, types: frozenset[str], closed: frozenset[str] = frozenset()) -> None:
        """Return when an entry of one of `types` may have become ready since the last empty `reserve`.

        closed: types of which no entry is wanted now; a `wake` of one returns as well.
        """
        ...

    def wake(self, types: Collection[str] | None = None) -> None:
        """Have those return who are in `wait_ready` for one of these types; None: everybody.

        What they wait for may be something else from now on, or may be had elsewhere.
        """
        ...

    async def delete(self, entries: Sequence[Entry]) -> None:
        """Forget reserved entries: their runs ended, or the store refused the claim."""
        ...

    async def forget(self, entries: Sequence[Entry]) -> None:
        """Forget waiting entries, which have no handles: their jobs have ended or are gone. Some may come all the same."""
        ...

    async def release(self, entries: Sequence[Entry]) -> None:
        """Give reserved entries back as ready."""
        ...

    def problems(self) -> list[str]:
        """Return what is wrong, in words; [] when all is well."""
        ...

    def backlog(self, type_: str) -> bool:
        """Tell whether an entry of this type is known to be waiting (then a new job must queue behind it)."""
        ...
