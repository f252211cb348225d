"""How a server is: its numbers, and whether all is well. Put together from the parts that know it; call from the loop thread.

However many types there are, the loop is not held, and nobody waits long for a store that is away or hangs.
"""

from __future__ import annotations

import os
from itertools import islice
from typing import Any

from kqs.errors import StoreUnavailableError
from kqs.log import get_logger
from kqs.parts import Parts
from kqs.states import State, waiting_count
from kqs.trouble import Trouble
from kqs.views.counted import Counted
from kqs.views.views import Views, soon
from kqs.words.phrases import counted

log = get_logger("kqs")

#: `health` names this many types without a handler; `stats` counts them all
MAX_TYPES_NAMED = 5


class Vitals:
    """See the module docstring."""

    def __init__(self, parts: Parts, views: Views) -> None:
        self._parts = parts
        self._views = views
        monotonic = parts.clock.monotonic
        self._started = monotonic()
        self._lasting = Trouble(log, "stats without the store", "stats with the store again", monotonic)

    async def stats(self) -> dict[str, int | float]:
        """Return plain numbers by name. `jobs_*` count what the store holds; `journal_unfed_records` is not in it yet.

        What only the store knows is left out while it cannot be asked.
        """
        parts = self._parts
        stats: dict[str, int | float] = {
            "pid": os.getpid(),
            "process": os.getpid(),
            "uptime_s": round(parts.clock.monotonic() - self._started, 3),
        }
        try:
            stats |= _job_stats(await self._views.counted())
        except StoreUnavailableError as error:
            self._lasting.met(error=str(error))
        else:
            self._lasting.over()
        queue, worker, desk = parts.queue, parts.worker, parts.desk
        stats["running"] = queue.runs.count
        stats["running_remote"] = desk.runs_count
        stats["lanes_busy"] = worker.busy_count
        stats |= parts.children.stats()
        stats["runs_done"] = worker.done_count + desk.done_count
        stats["runs_failed"] = worker.failed_count + desk.failed_count
        stats["runs_stale"] = queue.runs.stale_count
        stats["runs_ghost"] = queue.runs.ghost_count
        stats["refused_waiting"] = sum(queue.bounds.refused.values())
        stats["dropped_waiting"] = sum(queue.bounds.dropped.values())
        stats["journal_unfed_records"] = parts.feeder.lag_records
        stats |= parts.schedules.stats()
        stats.update({f"journal_{name}": value for name, value in parts.journal.stats().items()})
        return stats

    async def health(self, *, draining: bool) -> dict[str, Any]:
        """Return `{"ok", "verdict", "problems", "notes"}`. draining: the server is stopping.

        verdict: `ok`, `degraded` (it works, but look at `problems`), or `failing` (inserts are refused).
        """
        parts = self._parts
        having = (parts.journal, parts.feeder, parts.queue, parts.worker, parts.schedules, parts.children)
        problems = [problem for part in having for problem in part.problems()]
        there = Counted({})
        try:
            await soon(parts.queue.reads.check())
            there = await self._views.counted()
        except StoreUnavailableError as error:
            if not any(str(error) in problem for problem in problems):
                problems.append(str(error))
        if draining:
            problems.append("the server is stopping: inserts are refused")
        is_failing = draining or not parts.journal.accepting
        verdict = "failing" if is_failing else "degraded" if problems else "ok"
        notes = self._notes(there, draining=draining)
        return {"ok": verdict == "ok", "verdict": verdict, "problems": problems, "notes": notes}

    def _notes(self, there: Counted, *, draining: bool) -> list[str]:
        """Return what is worth a look and no trouble, one sentence each."""
        is_told = not draining and not self._parts.only_accepts  # lanes that stop reserve no type
        named = islice(there.unhandled.items(), MAX_TYPES_NAMED if is_told else 0)
        notes = [f"{_waiting(n, type_)}, and no handler takes {'it' if n == 1 else 'them'}" for type_, n in named]
        notes += self._suspended_notes(there)
        if failed := there.totals[State.FAIL]:
            notes.append(f"{counted(failed, 'job')} failed for good and {'is' if failed == 1 else 'are'} kept")
        return [*notes, *self._parts.journal.notes(), *self._parts.children.notes()]

    def _suspended_notes(self, counted: Counted) -> list[str]:
        suspended = self._parts.queue.admission.suspended
        waiting = {type_: waiting_count(counted.counts.get(type_, {})) for type_ in suspended}
        notes = [f"{_waiting(n, type_)}, which is suspended" for type_, n in waiting.items() if n]
        return notes[:MAX_TYPES_NAMED]


def _job_stats(counted: Counted) -> dict[str, int | float]:
    stats: dict[str, int | float] = {f"jobs_{state.word}": n for state, n in counted.totals.items()}
    return stats | {"jobs_without_handler": sum(counted.unhandled.values()), "types": len(counted.counts)}


def _waiting(n: int, type_: str) -> str:
    return f"{counted(n, 'job')} of type {type_!r} {'waits' if n == 1 else 'wait'}"
