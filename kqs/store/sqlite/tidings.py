"""What transactions leave for others to hear: all that one did, once it is committed, and nothing if it is undone."""

from __future__ import annotations

from dataclasses import dataclass, field

from kqs.job import Accepted, Entry


@dataclass(slots=True)
class Tidings:
    """What one transaction has done that others hear of, or several have in turn."""

    #: jobs that were called to take their resource
    called: list[Entry] = field(default_factory=list)
    #: jobs of watched types that were to be stored
    given: list[Accepted] = field(default_factory=list)
    #: something is left for `follow` to do
    follows: bool = False

    def add(self, later: Tidings) -> None:
        """Take in what a later transaction has done."""
        self.called += later.called
        self.given += later.given
        self.follows = self.follows or later.follows
