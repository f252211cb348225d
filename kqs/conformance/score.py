"""How a program did: one line a rule, and how many it kept. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple


class Rule(NamedTuple):
    """One thing that is asked of a program. demand: what, in words."""

    name: str
    demand: str


class End(StrEnum):
    """How a rule came out."""

    OK = "ok"
    FAILED = "failed"
    NOT_TRIED = "not tried"


class Broken(Exception):  # noqa: N818 - no error of ours
    """The program has broken the rule that is tried; the message says what was expected and what came."""


class NotTried(Exception):  # noqa: N818 - no error of ours
    """The rule says nothing of a program of this kind; the message says why."""


class Line(NamedTuple):
    """What is told of one rule. detail: what was expected and what came, or why it was not tried."""

    rule: Rule
    end: End
    detail: str = ""


class Report(NamedTuple):
    """What is told of a program."""

    lines: Sequence[Line]

    def count(self, end: End) -> int:
        """Return how many rules came out so."""
        return sum(line.end is end for line in self.lines)

    @property
    def is_good(self) -> bool:
        """Tell whether no rule is broken, and some were tried."""
        return not self.count(End.FAILED) and bool(self.count(End.OK))

    @property
    def summary(self) -> str:
        """Return the score in words."""
        tried = self.count(End.OK) + self.count(End.FAILED)
        untried = self.count(End.NOT_TRIED)
        return f"{self.count(End.OK)} of {tried} rules kept" + (f", {untried} not tried" if untried else "")
