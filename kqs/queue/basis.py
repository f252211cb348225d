"""What most parts of the queue rest on, made once."""

from __future__ import annotations

from dataclasses import dataclass

from kqs.clock import Clock
from kqs.options import Cascade
from kqs.queue.events import Events
from kqs.queue.groups import Groups
from kqs.queue.rules import Retention
from kqs.store.base import Store
from kqs.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class Basis:
    """See the module docstring. events: where it is told what happens to jobs."""

    store: Store
    broker: Groups
    cascade: Cascade
    clock: Clock
    retention: Retention
    events: Events
    supervisor: Supervisor
