"""Whose turn it is among the groups of a type: one after the other by name, each as often as it weighs. Pure.

Those that have no group are one group, without a name, which comes first in a round. A group that comes up while a round is
under way has its turn when its name comes: nobody waits for longer than one round.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from kqs.job import Entry


class Turn(NamedTuple):
    """Where a round stands. group: who was served last, "" for those without a group; given: how many of its turn it had.

    given 0: its turn is over.
    """

    group: str = ""
    given: int = 0


class Turned(NamedTuple):
    """What a stretch of rounds gives. plain: how many of those without a group have their turn in it. turn: where it ends.

    is_all: no group has anything that may have a turn.
    """

    entries: list[Entry]
    plain: int
    turn: Turn
    is_all: bool


def weight_of(weights: Mapping[str, int], group: str) -> int:
    """Return how many jobs a group may have in its turn."""
    return weights.get(group, 1)


class Line(NamedTuple):
    """Groups in the order in which they have their turns, from the one whose turn it is; "" stands for those without a group.

    is_whole: these are all that may have one, so a second round may follow the first.
    """

    names: list[str]
    is_whole: bool


def line_of(
    turn: Turn,
    behind: Sequence[str],
    before: Sequence[str],
    weights: Mapping[str, int],
    most: Mapping[str, int],
    plain: int,
    wanted: int,
) -> Line:
    """Return in which order groups have their turns.

    Args: behind, before: names, by name: those behind the one that was served last, and the first of all up to that one.
        most: how many a group may get. plain: how many there may be without a group. wanted: `behind` are not all if they
        are so many, and both are not if they are so many together.
    """
    names = [*behind, *([""] if plain and len(behind) < wanted else []), *before]
    if 0 < turn.given < weight_of(weights, turn.group):
        names = [turn.group, *(name for name in names if name != turn.group)]
    return Line([name for name in names if most.get(name, 1) > 0], len(behind) + len(before) < wanted)


def share_of(line: Line, count: int, weights: Mapping[str, int]) -> int:
    """Return how many jobs of each group may be needed for `count` turns."""
    heaviest = max((weight_of(weights, name) for name in line.names), default=1)
    if not line.is_whole:
        return min(heaviest, count)
    rounds_count = -(-count // max(sum(weight_of(weights, name) for name in line.names), 1))
    return min(rounds_count * heaviest, count)


def turned(
    turn: Turn,
    line: Line,
    firsts: Mapping[str, Sequence[Entry]],
    weights: Mapping[str, int],
    most: Mapping[str, int],
    passed: Collection[int],
    plain: int,
    count: int,
) -> Turned:
    """Return what a look has found.

    Args: firsts: by group, who comes first in it: as many as `share_of` said that are not passed, or all. All else as above
        and for Store.in_turn.
    """
    names = line.names
    if len(names) >= count and not (weights or most or passed or plain or turn.given):  # one of each
        once = [firsts[name][0] for name in names[:count] if firsts[name]]
        if len(once) == count > 0:
            return Turned(once, 0, Turn(names[count - 1]), False)
    each = share_of(line, count, weights)
    waiting: dict[str, list[Entry]] = {}
    cut: set[str] = set()
    for name, found in firsts.items():
        there = [one for one in found if one.order not in passed]
        waiting[name] = there[: most.get(name)]
        if len(there) >= each and most.get(name, each + 1) > len(there):
            cut.add(name)
    taken, of_plain, ended = rounds(turn, line, waiting, cut, weights, plain, count)
    return Turned(taken, of_plain, ended, not any(firsts.values()))


def rounds(
    turn: Turn,
    line: Line,
    waiting: Mapping[str, Sequence[Entry]],
    cut: Collection[str],
    weights: Mapping[str, int],
    plain: int,
    count: int,
) -> tuple[list[Entry], int, Turn]:
    """Give `count` jobs their turns, or as many as there are; return them, how many plain ones come beside, and where it ends.

    It ends where it is not known who is next, so that nobody is passed over.

    Args: waiting: by name, who waits, in their order. cut: groups of which there may be more than those. plain: how many of
        those without a group there may be.
    """
    given: dict[str, int] = dict.fromkeys(line.names, 0)
    taken: list[Entry] = []
    of_plain = 0
    had = turn.given  # of a turn that the last look broke off
    while len(taken) + of_plain < count:
        before = len(taken) + of_plain
        for name in line.names:
            had_before, had = had if name == turn.group else 0, 0
            left = min(weight_of(weights, name) - had_before, count - len(taken) - of_plain)
            start = given[name]
            there = (plain if not name else len(waiting.get(name, ()))) - start
            share = min(left, there)
            if share > 0:
                given[name] = start + share
                if name:
                    taken += waiting[name][start : start + share]
                else:
                    of_plain += share
                given_now = had_before + share
                turn = Turn(name, given_now if given_now < weight_of(weights, name) else 0)
            if len(taken) + of_plain == count or (there < left and name in cut):
                return taken, of_plain, turn
        if len(taken) + of_plain == before or not line.is_whole:
            break
    return taken, of_plain, turn
