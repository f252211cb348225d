"""The parts of a node, as those know them who start it, show what is in it, or change it when asked."""

from __future__ import annotations

from dataclasses import dataclass

from kqs.children import Children
from kqs.clock import Clock
from kqs.feeder import Feeder
from kqs.inserter import Inserter
from kqs.journal import Journal
from kqs.queue.queue import Queue
from kqs.remote import Desk
from kqs.schedules.schedules import Schedules
from kqs.worker import Worker


@dataclass(frozen=True, kw_only=True)
class Parts:
    """See the module docstring. only_accepts: it is not to run jobs, so that it has handlers for none is nothing to tell."""

    journal: Journal
    feeder: Feeder
    queue: Queue
    worker: Worker
    desk: Desk
    children: Children
    schedules: Schedules
    inserter: Inserter
    clock: Clock
    only_accepts: bool = False
