"""What `follow` has to look at, in memory: hints, no more. What they lead to is read from the documents; a lost one is found by
a sweep.

A hint is the id of a job that has ended, or is gone; or what stands for a batch that may be complete (held.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

#: beyond so many hints all held jobs are looked at instead
MOST_HINTS = 100_000
#: without held jobs, nor a word of any, for so long, in s, ends are not noted any more. Other servers say so more often.
UNUSED_S = 60.0
#: whoever makes held jobs says so to the others so often, in s
SAY_S = 20.0


class Noted:
    """See the module docstring. Call from the loop thread."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._hints: dict[str, None] = {}
        self._used_at: float | None = None
        self._said_at: float | None = None
        #: where a sweep of all held jobs has come; None: there is none
        self.swept_to: str | None = None
        #: told that there is something to look at
        self.on_noted: Callable[[], None] = _nothing

    @property
    def is_used(self) -> bool:
        """Tell whether jobs may be held, of this server or another one."""
        return self._used_at is not None

    @property
    def has_any(self) -> bool:
        """Tell whether there is something to look at."""
        return bool(self._hints) or self.swept_to is not None

    def use(self) -> bool:
        """Take in that this server makes held jobs; tell whether the others should hear so now (`said`)."""
        self._used_at = now = self._monotonic()
        return self._said_at is None or now - self._said_at >= SAY_S

    def said(self) -> None:
        """Take in that the others can hear so: what failed before that is said when it is repeated."""
        self._said_at = self._monotonic()

    def found(self, *, is_any: bool) -> None:
        """Take in whether some jobs are held."""
        now = self._monotonic()
        if is_any:
            was_used, self._used_at = self.is_used, now
            if not was_used:  # what has ended meanwhile was not noted
                self.sweep()
        elif self._used_at is not None and now - self._used_at >= UNUSED_S:
            self._used_at = None

    def heard(self) -> None:
        """Take in that another server has made some: it says so, or they were met."""
        self.found(is_any=True)

    def note(self, hints: Iterable[str]) -> None:
        """Note hints, where any job may be held."""
        if self._used_at is None:
            return
        self._hints.update(dict.fromkeys(hints))
        if len(self._hints) > MOST_HINTS:
            self._hints.clear()
            self.sweep()
        elif self._hints:
            self.on_noted()

    def sweep(self) -> None:
        """Have all held jobs looked at."""
        if self._used_at is not None:
            self.swept_to = ""
            self.on_noted()

    def take(self, most: int) -> list[str]:
        """Return the first hints, which are none any more."""
        taken = list(islice(self._hints, most))
        for hint in taken:
            del self._hints[hint]
        return taken

    def put_back(self, hints: Iterable[str]) -> None:
        """Have these be looked at once more, as part of what is being done."""
        self._hints.update(dict.fromkeys(hints))


def _nothing() -> None:
    return None
