"""What the store holds, summed up for all who ask at a time."""

from __future__ import annotations

from itertools import islice

import pytest

from kqs.states import State
from kqs.views import counted as module
from kqs.views.counted import Counted

COUNTS = {f"type{n:02}": {State.NEW: n, State.SUCCESS: 1} for n in range(30)}


async def test_sums_are_those_of_all_types() -> None:
    counted = await Counted.summed(COUNTS, {"type29"}.__contains__)
    assert (counted.totals[State.NEW], counted.totals[State.SUCCESS]) == (435, 30)
    assert counted.unhandled == {f"type{n:02}": n for n in range(1, 29)}


async def test_many_types_are_summed_up_in_several_turns_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    for at_once, turns in ((1000, 1), (3, 10)):
        monkeypatch.setattr(module, "TYPES_AT_ONCE", at_once)
        summing = Counted.summed(COUNTS, lambda type_: False)
        for _ in range(turns):
            assert summing.send(None) is None
        with pytest.raises(StopIteration):
            summing.send(None)


async def test_types_come_by_name_from_any_of_them_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TYPES_AT_ONCE", 7)
    counted = await Counted.summed(dict(reversed(COUNTS.items())), lambda type_: False)
    assert list(counted.after("")) == sorted(COUNTS)
    assert list(islice(counted.after("type11"), 2)) == ["type12", "type13"]
    assert list(counted.after("type115")) == [f"type{n}" for n in range(12, 30)]
