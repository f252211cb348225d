"""Ready jobs that our broker was never told of, because another server stored them.

Its broker may be one of its own; or it shares ours, and died or lost touch before it put the job there. Either way the job
stays the foremost of its type in the store. One look proves nothing about a shared broker, where the job may stand already: but
a job that is still foremost at the next look although we had room for it stands nowhere. While we have no room, or others of
its type to run first, it may as well wait its turn, and is given longer: but not for ever, since such times may never end.
"""

from __future__ import annotations

from kqs.broker.base import Broker
from kqs.queue.admission import Admission
from kqs.store.base import Store

#: so many times as long, while nobody here would take it at once
BUSY_FACTOR = 3


class Seeker:
    """See the module docstring. Call from the loop thread."""

    def __init__(self, store: Store, broker: Broker, admission: Admission, looks: int) -> None:
        """Args: looks: in a row at which a job must be foremost; 1 finds it at once, 0 never looks."""
        self._store = store
        self._broker = broker
        self._admission = admission
        self._looks = looks
        self._foremost: dict[str, tuple[str, int]] = {}  # by type: its foremost job, and at how many looks it was

    async def look(self) -> None:
        """Have the broker fetch what it misses. Raises: StoreError."""
        missing, foremost = [], {}
        taken = self._taken_types()
        if self._looks and taken:
            missing = [type_ for type_ in await self._store.grouped_types(taken.keys()) if not self._broker.backlog(type_)]
        for type_, has_room in taken.items():
            is_busy = not has_room or self._broker.backlog(type_)
            found = await self._store.ready(type_, None, 1)
            if not found:
                continue
            job_id, seen = self._foremost.get(type_, ("", 0))
            seen = seen + 1 if job_id == found[0].id else 1
            if seen >= self._looks * (BUSY_FACTOR if is_busy else 1):
                missing.append(type_)
                seen = 0
            foremost[type_] = (found[0].id, seen)
        self._foremost = foremost
        if missing:
            await self._broker.recheck(missing)

    def _taken_types(self) -> dict[str, bool]:
        """Return the types that are taken here, and whether there is room for them."""
        types: dict[str, bool] = {}
        for consumer in self._admission.consumers if self._looks else ():
            wanted = self._admission.wanted(consumer)
            for type_ in wanted.types:
                types[type_] = types.get(type_, False) or wanted.most > 0
        return types
