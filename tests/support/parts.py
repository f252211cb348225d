"""The parts of a node that has little more than a queue."""

from types import SimpleNamespace
from typing import Any

from kqs.ids import Ids
from kqs.parts import Parts
from kqs.queue.queue import Queue


class Fed:
    """A feeder that has nothing to do."""

    lag_records = 0
    problems = list

    async def catch_up(self, *, unflushed: bool = False) -> None:
        """All is fed."""


def parts_of(queue: Queue, **named: Any) -> Parts:
    """Return them, with these among them; whoever is not named does nothing and has nothing to tell."""
    others: dict[str, Any] = {
        "journal": SimpleNamespace(accepting=True, problems=list, notes=list, stats=dict),
        "feeder": Fed(),
        "worker": SimpleNamespace(busy_count=0, done_count=0, failed_count=0, problems=list),
        "desk": SimpleNamespace(runs_count=0, done_count=0, failed_count=0),
        "children": SimpleNamespace(types=(), problems=list, notes=list, stats=dict),
        "schedules": SimpleNamespace(problems=list, stats=dict),
        "inserter": SimpleNamespace(ids=Ids("0000beef")),
    }
    return Parts(queue=queue, clock=queue.clock, **{**others, **named})
