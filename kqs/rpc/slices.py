"""Work that takes long gets its turns between the ticks of the loop: one slice of one piece of work a tick.

So however many peers ask for such work, others wait for one slice at most. Work on a very long line takes many times its bytes
until it is done, so one such piece is done after the other; all others have every second slice. Call from the loop thread.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter

from kqs.supervisor import Supervisor
from kqs.wire.steps import Steps

#: A slice ends with the first step that is over after so long. Short beside what people notice, long beside a tick.
SLICE_S = 0.005
#: Work on a longer line is done alone of its kind. A choice: what it is worth was measured for all lines of a siege together.
LIGHT_BYTES = 1024 * 1024


class Slices:
    """The pieces of work under way: the light ones in turn, the heavy ones in their order."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._light: deque[Steps[None]] = deque()
        self._heavy: deque[Steps[None]] = deque()
        self._is_lights_turn = True
        self._is_due = False

    def run(self, work: Steps[None], size: int = 0) -> None:
        """Do all steps of `work`, from the next tick on. It must not raise, nor wait for anybody.

        size: of its line, in bytes.
        """
        (self._heavy if size > LIGHT_BYTES else self._light).append(work)
        self._call_turn()

    def _call_turn(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._supervisor.call_soon("slices", self._turn)

    def _turn(self) -> None:
        self._is_due = False
        line = self._light if self._light and (self._is_lights_turn or not self._heavy) else self._heavy
        self._is_lights_turn = line is self._heavy
        work = line.popleft()
        if not _is_over_after(work, perf_counter() + SLICE_S):
            if line is self._heavy:
                line.appendleft(work)
            else:
                line.append(work)
        if self._light or self._heavy:
            self._call_turn()


def _is_over_after(work: Steps[None], until: float) -> bool:
    """Do steps until then; tell whether none is left."""
    return all(perf_counter() <= until for _ in work)
