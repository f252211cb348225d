"""How schedules are shown."""

from __future__ import annotations

import pytest

from kqs.schedules import shown as module
from kqs.schedules.roster import Entry
from kqs.schedules.shown import shown
from kqs.store.ticks import Plan, Schedule


def leap_days(count: int) -> list[Entry]:
    plan = Plan(cron="0 0 29 2 *", job='{"type":"leap"}')
    return [Entry(Schedule(f"s{n}", plan, "call", 0.0, 0.0, n), 0.0) for n in range(count)]


async def no_record(entry: Entry) -> str | None:
    return None


@pytest.mark.parametrize(("slice_s", "turns"), [(60.0, 0), (0.0, 3 + 3 * 5)])
async def test_instants_are_told_in_several_turns_of_the_loop(
    monkeypatch: pytest.MonkeyPatch, slice_s: float, turns: int
) -> None:
    monkeypatch.setattr(module, "SLICE_S", slice_s)
    showing = shown(leap_days(3), 5, no_record)
    for _ in range(turns):
        assert showing.send(None) is None
    with pytest.raises(StopIteration) as over:
        showing.send(None)
    rows = over.value.value
    assert [row["name"] for row in rows] == ["s0", "s1", "s2"]
    assert {len(set(row["next"])) for row in rows} == {5}
