"""What is known of one schedule in memory."""

from __future__ import annotations

from kqs.schedules.roster import Entry
from kqs.store.ticks import Plan, Schedule
from kqs.trouble import TOLD_EVERY_S

NOW = 1000.0


def test_ticks_without_a_job_are_told_of_at_once_and_then_all_together_after_a_while() -> None:
    entry = Entry(Schedule("a", Plan('{"type":"mail"}', every=60.0), "call", NOW, NOW, 1), 0.0)
    assert entry.take_untold(0, 1, NOW) == (0, 1)
    assert [entry.take_untold(missed, 1, NOW + 1 + missed) for missed in (0, 2)] == [(0, 0), (0, 0)]
    assert entry.take_untold(0, 0, NOW + TOLD_EVERY_S) == (2, 2)
    assert entry.take_untold(0, 0, NOW + 3 * TOLD_EVERY_S) == (0, 0)
    assert entry.take_untold(3, 0, NOW + 3 * TOLD_EVERY_S) == (3, 0)
