"""What a beanstalkd tells whoever uses it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from kqs.job import Entry


class Listener(Protocol):
    """Who is told what becomes of a server's jobs; the broker. All is called from the loop thread."""

    def taken(self, entry: Entry) -> None:
        """A job has been reserved."""
        ...

    def refused(self, entries: Sequence[Entry]) -> None:
        """Jobs of one type could not be put, or given back."""
        ...

    def forgotten(self, types: Iterable[str]) -> None:
        """Whatever of these types the server held is not to be counted on any more."""
        ...

    def made_room(self, type_: str) -> None:
        """Others have taken jobs of this type."""
        ...

    def answered(self) -> None:
        """The server has answered, and may be asked again."""
        ...

    def came_up(self) -> None:
        """The server takes jobs again."""
        ...

    def is_partial(self, type_: str) -> bool:
        """Tell whether more jobs of a type wait for room here."""
        ...

    def wanted(self) -> Iterable[str]:
        """Return the types that somebody would take jobs of."""
        ...
