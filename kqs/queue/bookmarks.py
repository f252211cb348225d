"""What happens to one job is told in its order, though others may see it before whoever has asked for it hears of it.

A store answers when all of a change is done. Some of its jobs may have begun to run by then, or be called for their resource.
So whoever asks for a change leaves a *bookmark* in the line of each job that it may concern. What is told of such a job from
then on has happened later, and waits behind it, until what the change has done is told at the bookmark, and that is taken out.
Call from the loop thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, Self, TypeVar


class Told(Protocol):
    """Some jobs to which the same has happened."""

    @property
    def ids(self) -> Sequence[str]:
        """Return the ids of the jobs; the same may be there twice."""

    def part(self, indexes: Sequence[int]) -> Self:
        """Return the jobs that stand there."""


T = TypeVar("T", bound=Told)


class Bookmark:
    """What stands for a change in the lines of its jobs."""

    __slots__ = ()


class Bookmarks(Generic[T]):
    """See the module docstring. Falsy while there are no lines, and whatever is told may be told at once."""

    def __init__(self, tell: Callable[[T], None]) -> None:
        """Args: tell: given each batch, or parts of it, when it is its turn."""
        self._tell = tell
        self._lines: dict[str, list[Bookmark | T]] = {}  # by job id; first in each is a bookmark

    def __bool__(self) -> bool:
        return bool(self._lines)

    def leave(self, bookmark: Bookmark, job_ids: Iterable[str]) -> None:
        """Have what is told of these jobs from now on wait behind `bookmark`."""
        for job_id in job_ids:
            self._lines.setdefault(job_id, []).append(bookmark)

    def tell(self, batch: T, bookmark: Bookmark | None = None) -> None:
        """Tell of each job at its turn: at `bookmark` where that stands in its line, else behind all that is in it."""
        lines, ids = self._lines, batch.ids
        kept = [index for index, job_id in enumerate(ids) if job_id in lines and lines[job_id][0] is not bookmark]
        for index in kept:
            line = lines[ids[index]]
            line.insert(line.index(bookmark) if bookmark in line else len(line), batch.part([index]))
        if not kept:
            self._tell(batch)
        elif left := sorted(set(range(len(ids))).difference(kept)):
            self._tell(batch.part(left))

    def take_out(self, bookmark: Bookmark, job_ids: Iterable[str]) -> None:
        """Tell what waits behind `bookmark`, as far as it is its turn. Where it does not stand, nothing is done."""
        for job_id in job_ids:
            line = self._lines.get(job_id)
            if line is not None and bookmark in line:
                line.remove(bookmark)
                self._move_up(job_id, line)

    def _move_up(self, job_id: str, line: list[Bookmark | T]) -> None:
        first = next((index for index, one in enumerate(line) if isinstance(one, Bookmark)), len(line))
        turn = [one for one in line[:first] if not isinstance(one, Bookmark)]
        del line[:first]
        if not line:
            del self._lines[job_id]
        for told in turn:
            self._tell(told)

    def clear(self) -> None:
        """Forget all lines, and what waits in them."""
        self._lines.clear()
