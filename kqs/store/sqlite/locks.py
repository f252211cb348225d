"""Who has which resource, and who has been called to take one: in memory, since a file has one server.

A resource is had by the job that runs with it: the file's running jobs say it all, but for runs whose jobs were deleted, which
have it until they are reported, or this process ends. Who is called is forgotten with the process, or by a transaction that
fails: then `unsure_from` says from where on free resources have to be looked at anew.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from typing import NamedTuple

import msgspec

from kqs.store.sqlite.tables import Place

_HELD = f"""
select json_group_array(json_array(ord, cast(resource as text))) from jobs indexed by running
where place = {Place.RUNNING:d} and resource is not null
"""
_HAS_PARKED = "select exists (select 1 from parked)"

_decode_held = msgspec.json.Decoder(list[tuple[int, str]]).decode


class Call(NamedTuple):
    """Which job is called, and since when, in Unix seconds."""

    prio: int
    order: int
    at: float


class Deleted(NamedTuple):
    """The run of a job that was deleted. since: when it began, in Unix seconds."""

    resource: str
    id: str
    attempt: int
    epoch: int
    since: float


class Locks:
    """See the module docstring.

    holders: by resource, the order of the job that has it. has_parked: False: no job is parked. fresh: which resources a job
    was called for, and when, in Unix seconds; in that order, until somebody has looked whether it was claimed. deleted: runs
    whose jobs were, by order.
    """

    def __init__(self, db: sqlite3.Connection, deleted: dict[int, Deleted]) -> None:
        """Args: deleted: is kept up to date; it may have runs of jobs that are there again, since a transaction has failed."""
        (packed,) = db.execute(_HELD).fetchone()
        self._held = dict(_decode_held(packed))
        for order in self._held.keys() & deleted:
            del deleted[order]
        self._held |= {order: one.resource for order, one in deleted.items()}
        self.deleted = deleted
        self.holders = {resource: order for order, resource in self._held.items()}
        (has_parked,) = db.execute(_HAS_PARKED).fetchone()
        self.has_parked = bool(has_parked)
        #: look at resources above it that have parked jobs; None: all have been looked at
        self.unsure_from: str | None = "" if has_parked else None
        self.fresh: deque[tuple[float, str]] = deque()
        self._called: dict[str, dict[str, Call]] = {}  # by resource and type
        self._called_for: dict[int, tuple[str, str]] = {}  # by order: resource and type

    def take(self, resource: str, order: int) -> None:
        """Let a job have a resource that is free."""
        self.uncall(order)
        self.holders[resource] = order
        self._held[order] = resource

    def free(self, order: int) -> str | None:
        """Take from a job the resource that it has; return that, or None if it has none."""
        resource = self._held.pop(order, None)
        if resource is not None:
            del self.holders[resource]
            self.deleted.pop(order, None)
        return resource

    def held_by(self, order: int) -> str | None:
        """Return the resource that a job has; None: it has none."""
        return self._held.get(order)

    def call(self, resource: str, type_: str, prio: int, order: int, now: float) -> None:
        """Note that a job may take a free resource for which others are parked."""
        self._called.setdefault(resource, {})[type_] = Call(prio, order, now)
        self._called_for[order] = (resource, type_)
        self.fresh.append((now, resource))

    def uncall(self, order: int) -> str | None:
        """Note that a job is not called any more; return for what it was, or None if it was not."""
        resource, type_ = self._called_for.pop(order, (None, ""))
        if resource is not None:
            calls = self._called[resource]
            del calls[type_]
            if not calls:
                del self._called[resource]
        return resource

    def calls(self, resource: str) -> dict[str, Call]:
        """Return who is called to take a resource, by type."""
        return self._called.get(resource, {})

    def may_take(self, resource: str, prio: int, order: int) -> bool:
        """Tell whether a job may take a free resource that others wait for: it is called, or comes before who is."""
        if order in self._called_for:
            return True
        calls = self._called.get(resource)
        return calls is not None and all((prio, order) < (call.prio, call.order) for call in calls.values())
