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


def line_of(
    turn: Turn,
    behind: Sequence[str],
    before: Sequence[str],
    weights: Mapping[str, int],
    most: Mapping[str, int],
    plain: int,
    wanted: int,
) -> list[str]:
    """Return in which order groups have their turns, from the one whose turn it is; "" stands for those without a group.

    Args: behind, before: names, by name: those behind the one that was served last, and the first of all up to that one.
        most: how many a group may get. plain: how many there may be without a group. wanted: `behind` are not all if they
        are so many.
    """
    line = [*behind, *([""] if plain and len(behind) < wanted else []), *before]
    if 0 < turn.given < weight_of(weights, turn.group):
        line = [turn.group, *(name for name in line if name != turn.group)]
    return [name for name in line if most.get(name, 1) > 0]


def share_of(line: Sequence[str], count: int, weights: Mapping[str, int]) -> int:
    """Return how many jobs of each group may be needed for `count` turns."""
    rounds_count = -(-count // max(sum(weight_of(weights, name) for name in line), 1))
    return min(rounds_count * max((weight_of(weights, name) for name in line), default=1), count)


def turned(
    turn: Turn,
    line: Sequence[str],
    firsts: Mapping[str, Sequence[Entry]],
    weights: Mapping[str, int],
    most: Mapping[str, int],
    passed: Collection[int],
    plain: int,
    count: int,
) -> Turned:
    """Return what a look has found. Args: firsts: by group, who comes first in it. All else as above and for Store.in_turn."""
    if len(line) >= count and not (weights or most or passed or plain or turn.given):  # one of each
        once = [firsts[name][0] for name in line[:count] if firsts[name]]
        if len(once) == count > 0:
            return Turned(once, 0, Turn(line[count - 1]), False)
    waiting = {name: [one for one in found if one.order not in passed][: most.get(name)] for name, found in firsts.items()}
    taken, of_plain, ended = rounds(turn, line, waiting, weights, plain, count)
    return Turned(taken, of_plain, ended, not any(firsts.values()))


def rounds(
    turn: Turn, line: Sequence[str], waiting: Mapping[str, Sequence[Entry]], weights: Mapping[str, int], plain: int, count: int
) -> tuple[list[Entry], int, Turn]:
    """Give `count` jobs their turns, or as many as there are; return them, how many plain ones come beside, and where it ends.

    Args: line: names in the order in which they come, from the one whose turn it is; "" for those without a group. waiting: by
        name, who waits, in their order. plain: how many of those without a group there may be.
    """
    given: dict[str, int] = dict.fromkeys(line, 0)
    taken: list[Entry] = []
    of_plain = 0
    had = turn.given  # of a turn that the last look broke off
    while len(taken) + of_plain < count:
        before = len(taken) + of_plain
        for name in line:
            had_before, had = had if name == turn.group else 0, 0
            left = weight_of(weights, name) - had_before
            start = given[name]
            most = plain if not name else len(waiting.get(name, ()))
            share = min(left, most - start, count - len(taken) - of_plain)
            if share <= 0:
                continue
            given[name] = start + share
            if name:
                taken += waiting[name][start : start + share]
            else:
                of_plain += share
            turn = Turn(name, had_before + share if share < left else 0)
            if len(taken) + of_plain == count:
                break
        if len(taken) + of_plain == before:
            break
    return taken, of_plain, turn
