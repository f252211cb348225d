"""Whose turn it is: against a queue of groups that is kept naively, with everything in it at once."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from kqs.job import Entry
from kqs.store.rotation import Line, Terms, Turn, line_of, rounds, share_of, turned

NAMES = "abcdef"
waiting_jobs = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 9))
some_weights = st.dictionaries(st.sampled_from(["", *NAMES]), st.integers(1, 4))


def entries(name: str, count: int) -> list[Entry]:
    return [Entry(n, f"{name}{n}", "mail", 0, group=name) for n in range(count)]


def one_after_the_other(jobs: Mapping[str, int], plain: int, weights: Mapping[str, int]) -> list[str]:
    """Return who has a turn, in rounds by name from the first one on, until nobody waits."""
    left = {"": plain, **jobs}
    order: list[str] = []
    while any(left.values()):
        for name in [*sorted(name for name in left if name), ""]:
            share = min(left[name], Terms(weights).weight_of(name))
            left[name] -= share
            order += [name] * share
    return order


def look(
    jobs: dict[str, int],
    plain: int,
    weights: Mapping[str, int],
    turn: Turn,
    count: int,
    most: Mapping[str, int],
    groups: int = 100,
) -> tuple[list[str], Turn]:
    """Ask once, as a store does, and take out what is given; return whose turn it was, those without a group at the end.

    groups: so many are looked at, at most.
    """
    there = sorted(name for name, waits in jobs.items() if waits)
    wanted = min(count + sum(left <= 0 for left in most.values()), groups)
    behind = [name for name in there if name > turn.group][:wanted]
    before = [name for name in there if name <= turn.group] if len(behind) < wanted else []
    terms = Terms(weights, most, plain=plain)
    line = line_of(turn, behind, before, terms, wanted)
    firsts = {name: entries(name, min(jobs[name], share_of(line, count, terms))) for name in line.names if name}
    found = turned(turn, line, firsts, terms, count)
    names = [entry.group or "" for entry in found.entries]
    for name in names:
        jobs[name] -= 1
    assert not (found.is_all and names)
    assert found.is_all or there
    return names + [""] * found.plain, found.turn


@given(
    waiting_jobs,
    st.integers(0, 9),
    some_weights,
    st.lists(st.integers(1, 12), min_size=100, max_size=100),
    st.integers(1, 7),
)
def test_looks_of_any_size_give_the_same_turns(
    jobs: dict[str, int], plain: int, weights: dict[str, int], counts: list[int], groups: int
) -> None:
    expected = one_after_the_other(jobs, plain, weights)
    turn, seen = Turn(), list[str]()
    for count in counts:
        names, turn = look(jobs, plain, weights, turn, count, {}, groups)
        assert len(names) <= count
        assert names or not any(jobs.values())
        plain -= names.count("")
        seen += names
        now = expected[: len(seen)]
        assert [name for name in seen if name] == [name for name in now if name]
        assert seen.count("") == now.count("")
    assert len(seen) == len(expected)


@given(waiting_jobs, some_weights, st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3)), st.integers(1, 20))
def test_nobody_has_more_than_it_may(jobs: dict[str, int], weights: dict[str, int], most: dict[str, int], count: int) -> None:
    names, _ = look(dict(jobs), 0, weights, Turn(), count, most)
    for name in set(names):
        assert names.count(name) <= most.get(name, count)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 40))
def test_a_group_that_comes_up_waits_for_one_round_at_most(groups: int, weight: int, at: int) -> None:
    jobs = dict.fromkeys(NAMES[:groups], 1000)
    weights = dict.fromkeys(jobs, weight)
    turn = Turn()
    for _ in range(at):
        _, turn = look(jobs, 0, weights, turn, 1, {})
    jobs["new"] = 1
    seen: list[str] = []
    while "new" not in seen:
        names, turn = look(jobs, 0, weights, turn, 1, {})
        seen += names
    assert len(seen) <= groups * weight + 1


@given(waiting_jobs, st.integers(0, 8), st.sampled_from(["", *NAMES]))
def test_a_look_at_many_groups_gives_the_turns_of_any_other(jobs: dict[str, int], count: int, last: str) -> None:
    line = Line(sorted(jobs, key=lambda name: (name <= last, name)), True)
    firsts = {name: entries(name, waits) for name, waits in jobs.items()}
    found = turned(Turn(last), line, firsts, Terms(), count)
    assert found[:3] == rounds(Turn(last), line, firsts, (), Terms(), len(found.entries)), (
        "it may end before, but goes no other way"
    )
    assert found.entries or not (count and any(firsts.values()))


def test_no_turns_are_none() -> None:
    assert rounds(Turn("a"), Line([], True), {}, (), Terms(), 5) == ([], 0, Turn("a"))
