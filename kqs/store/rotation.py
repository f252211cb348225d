"""Whose turn it is among the groups of a type: one after the other by name, each as often as it weighs. Pure.

Those that have no group are one group, without a name, which comes first in a round. A group that comes up while a round is
under way has its turn when its name comes: nobody waits for longer than one round.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms groups have their turns in a look.

    weights: how many jobs a group gets in its turn, 1 if it is not there. most: how many a group may get in all. passed: orders
    of jobs that are on their way to a worker. plain: how many there may be of those without a group, who have turns as one.
    """

    weights: Mapping[str, int] = field(default_factory=dict)
    most: Mapping[str, int] = field(default_factory=dict)
    passed: Set[int] = frozenset()
    plain: int = 0

    def weight_of(self, group: str) -> int:
        """Return how many jobs a group may have in its turn."""
        return self.weights.get(group, 1)

    def may_get(self, group: str) -> bool:
        """Tell whether a group may get any."""
        return self.most.get(group, 1) > 0


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
    terms: Terms,
    wanted: int,
) -> Line:
    """Return in which order groups have their turns.

    Args: behind, before: names, by name: those behind the one that was served last, and the first of all up to that one.
        wanted: `behind` are not all if they are so many, and both are not if they are so many together.
    """
    names = [*behind, *([""] if terms.plain and len(behind) < wanted else []), *before]
    if 0 < turn.given < terms.weight_of(turn.group):
        names = [turn.group, *(name for name in names if name != turn.group)]
    return Line([name for name in names if terms.may_get(name)], len(behind) + len(before) < wanted)


def share_of(line: Line, count: int, terms: Terms) -> int:
    """Return how many jobs of each group may be needed for `count` turns."""
    heaviest = max(map(terms.weight_of, line.names), default=1)
    if not line.is_whole:
        return min(heaviest, count)
    rounds_count = -(-count // max(sum(map(terms.weight_of, line.names)), 1))
    return min(rounds_count * heaviest, count)


def turned(
    turn: Turn,
    line: Line,
    firsts: Mapping[str, Sequence[Entry]],
    terms: Terms,
    count: int,
) -> Turned:
    """Return what a look has found.

    Args: firsts: by group, who comes first in it: as many as `share_of` said that are not passed, or all.
    """
    names = line.names
    if len(names) >= count and not (terms.weights or terms.most or terms.passed or terms.plain or turn.given):  # one of each
        once = [firsts[name][0] for name in names[:count] if firsts[name]]
        if len(once) == count > 0:
            return Turned(once, 0, Turn(names[count - 1]), False)
    each, most = share_of(line, count, terms), terms.most
    waiting: dict[str, list[Entry]] = {}
    cut: set[str] = set()
    for name, found in firsts.items():
        there = [one for one in found if one.order not in terms.passed]
        waiting[name] = there[: most.get(name)]
        if len(there) >= each and most.get(name, each + 1) > len(there):
            cut.add(name)
    taken, of_plain, ended = rounds(turn, line, waiting, cut, terms, count)
    return Turned(taken, of_plain, ended, not any(firsts.values()))


def rounds(
    turn: Turn,
    line: Line,
    waiting: Mapping[str, Sequence[Entry]],
    cut: Collection[str],
    terms: Terms,
    count: int,
) -> tuple[list[Entry], int, Turn]:
    """Give `count` jobs their turns, or as many as there are; return them, how many plain ones come beside, and where it ends.

    It ends where it is not known who is next, so that nobody is passed over.

    Args: waiting: by name, who waits, in their order. cut: groups of which there may be more than those.
    """
    given: dict[str, int] = dict.fromkeys(line.names, 0)
    taken: list[Entry] = []
    of_plain = 0
    had = turn.given  # of a turn that the last look broke off
    while len(taken) + of_plain < count:
        before = len(taken) + of_plain
        for name in line.names:
            had_before, had = had if name == turn.group else 0, 0
            left = min(terms.weight_of(name) - had_before, count - len(taken) - of_plain)
            start = given[name]
            there = (terms.plain if not name else len(waiting.get(name, ()))) - start
            share = min(left, there)
            if share > 0:
                given[name] = start + share
                if name:
                    taken += waiting[name][start : start + share]
                else:
                    of_plain += share
                given_now = had_before + share
                turn = Turn(name, given_now if given_now < terms.weight_of(name) else 0)
            if len(taken) + of_plain == count or (there < left and name in cut):
                return taken, of_plain, turn
        if len(taken) + of_plain == before or not line.is_whole:
            break
    return taken, of_plain, turn
