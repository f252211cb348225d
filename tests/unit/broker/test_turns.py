from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kqs.broker import turns
from kqs.broker.turns import Turns

TYPES = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 1000), min_size=1)
WEIGHTS = st.fixed_dictionaries({type_: st.integers(1, 20) for type_ in "abcdefgh"})


@given(TYPES, WEIGHTS, st.integers(0, 500))
def test_no_grant_is_left_over_while_something_waits(waiting: dict[str, int], weights: dict[str, int], count: int) -> None:
    shares = Turns().share(waiting, weights, count)
    assert sum(shares.values()) == min(count, sum(waiting.values()))
    assert all(0 < share <= waiting[type_] for type_, share in shares.items())


@given(st.sets(st.sampled_from("abcdefgh"), min_size=1), WEIGHTS, st.lists(st.integers(1, 60), min_size=1, max_size=30))
def test_busy_types_share_by_weight_however_the_grants_are_cut(
    types: set[str], weights: dict[str, int], cuts: list[int]
) -> None:
    sharing, got = Turns(), dict.fromkeys(types, 0)
    for count in cuts:
        for type_, share in sharing.share(dict.fromkeys(types, 10**6), weights, count).items():
            got[type_] += share
    total = sum(weights[type_] for type_ in types)
    for type_ in types:
        assert abs(got[type_] - sum(cuts) * weights[type_] / total) <= len(types)


@given(WEIGHTS, st.integers(1, 200))
def test_a_late_type_has_its_turn_within_one_round(weights: dict[str, int], before: int) -> None:
    sharing = Turns()
    sharing.share(dict.fromkeys("bcdefgh", 1000), weights, before)
    round_ = sum(-(-weights[type_] // weights["a"]) + 1 for type_ in "bcdefgh")
    assert sharing.share(dict.fromkeys("abcdefgh", 1000), weights, round_ + 1)["a"] >= 1


def test_a_type_that_keeps_emptying_keeps_its_debt() -> None:
    sharing, got = Turns(), 0
    for _ in range(300):
        got += sharing.share({"steady": 1000, "fleeting": 1}, {"steady": 2, "fleeting": 1}, 1).get("fleeting", 0)
    assert got == 100


def test_idleness_saves_up_no_credit() -> None:
    sharing, weights = Turns(), {"a": 1, "b": 1}
    sharing.share({"a": 1000}, weights, 500)
    assert sharing.share({"a": 1000, "b": 1000}, weights, 100) == {"a": 50, "b": 50}


def test_types_without_end_take_no_memory_without_end() -> None:
    sharing = Turns()
    for number in range(3 * turns._MAX_REMEMBERED):
        sharing.share({f"type-{number}": 1, "other": 1}, {f"type-{number}": 1, "other": 1}, 2)
    assert len(sharing._debts) <= turns._MAX_REMEMBERED + 2


def test_too_many_debts_at_once_are_dropped() -> None:
    sharing, waiting = Turns(), {f"type-{number}": 1 for number in range(turns._MAX_REMEMBERED + 1)}
    sharing.share(waiting, waiting, len(waiting))
    assert not sharing._debts


def test_who_is_in_debt_is_remembered_among_types_without_end_that_have_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_MAX_REMEMBERED", 10)
    sharing = Turns()
    sharing.share({"slow": 1}, {"slow": 1}, 1)
    for number in range(20):
        sharing.share({"steady": 1, f"type-{number}": 1}, {"steady": 100, f"type-{number}": 100}, 2)
    assert len(sharing._debts) <= 10 + 2
    assert sharing.share({"steady": 100, "slow": 1}, {"steady": 100, "slow": 1}, 50) == {"steady": 50}
