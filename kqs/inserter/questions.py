"""What is asked about jobs that are being journaled, and found: whether they are new. Only the store knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import NamedTuple

from kqs.errors import KqsError


class Found(NamedTuple):
    """What the store has made of the jobs that were asked about: orders of known ones; by order, whom others were joined to."""

    known: Set[int]
    joined: Mapping[int, str]


#: of jobs about which nothing is asked
NOTHING_FOUND = Found(frozenset(), {})


class Question:
    """What is asked about some jobs of a record that is being journaled.

    left: orders that are not decided. is_lasting: no replay may decide anew, once it is told. told: called once, with what is
    found or why it is not.
    """

    __slots__ = ("is_lasting", "is_over", "joined", "known", "left", "told")

    def __init__(self, orders: Sequence[int], told: Callable[[Found | KqsError], None], *, is_lasting: bool) -> None:
        self.left = set(orders)
        self.told = told
        self.is_lasting = is_lasting
        self.is_over = False
        self.known: set[int] = set()
        self.joined: dict[int, str] = {}
