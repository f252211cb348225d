"""What most parts of the queue rest on, made once."""

from __future__ import annotations

from dataclasses import dataclass

from kqs.clock import Clock
from kqs.options import Cascade
from kqs.queue.events import Events
from kqs.queue.groups import Groups
from kqs.queue.rules import Judge, Retention
from kqs.queue.wishes import Wishes
from kqs.states import State
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
    judge: Judge
    events: Events
    wishes: Wishes
    supervisor: Supervisor

    def keep_damaged_s(self) -> float | None:
        """Return for how long, in s, the record of a damaged job is kept; None: for ever. See Store.claim."""
        return self.retention.drop_at(State.FAIL, self.cascade.base.keep, 0.0)
