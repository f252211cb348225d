"""Which file is which segment, whatever its name: for repair, before anything else is mended. Blocking.

A header says what its segment is; a name may be wrong, since somebody copied, moved or swapped files, or put back an old one.
What belongs to the journal gets its name; what stands under a segment's name and does not belong is set aside as NAME.stray.
Nothing is written but names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from kqs.errors import JournalVersionError
from kqs.journal.checkpoint import read_checkpoint
from kqs.journal.files import Files, opened, read_all
from kqs.journal.format import HEADER_BYTES, MalformedError, SegmentHeader, decode_header, mended_header, salt_of
from kqs.journal.reader import Frame, walk
from kqs.journal.segment import segment_name, segment_number

#: what the names of what was set aside here end in, but for a number
STRAY = ".stray"
#: of these, none is a segment that was moved
_NEVER = (".new", ".torn", ".damaged")


class _Filed(NamedTuple):
    """A file that holds a segment. is_intact: its header is, and not one bit off."""

    name: str
    header: SegmentHeader
    is_intact: bool = True

    @property
    def is_named(self) -> bool:
        """Tell whether it has a segment's name, right or wrong."""
        return segment_number(self.name) is not None

    @property
    def is_right(self) -> bool:
        """Tell whether it has its own name."""
        return self.name == segment_name(self.header.number)


def put_names_right(files: Files, directory: Path) -> list[str]:
    """Give every segment its name; return those of what was set aside.

    Raises: JournalVersionError. OSError: run again, it goes on from where it was.
    """
    return _Names(files, directory).put_right()


class _Names:
    def __init__(self, files: Files, directory: Path) -> None:
        self._files = files
        self._directory = directory
        self._taken = set(files.list(directory))
        self._checkpoint = read_checkpoint(files, directory)

    def put_right(self) -> list[str]:
        """See `put_names_right`."""
        filed = [one for name in sorted(self._taken) if (one := self._read(name)) is not None]
        chain = self._chain(self._of_one_journal(filed))
        targets = {one.name: segment_name(one.header.number) for one in chain}
        wanted = set(targets.values())
        strays = [one.name for one in filed if one.is_named and one.name not in targets]
        strays += [name for name in wanted & self._taken - set(targets) if name not in strays]
        moves = {name: target for name, target in targets.items() if name != target}
        set_aside = self._set_aside(strays)
        self._move(moves)
        return set_aside

    def _read(self, name: str) -> _Filed | None:
        """Return what a file says that it is; None where it says nothing."""
        if name.endswith(_NEVER):
            return None
        is_named = segment_number(name) is not None
        try:
            with opened(self._files, self._directory / name) as handle:
                data = read_all(self._files, handle, HEADER_BYTES, 0)
            return _Filed(name, decode_header(data))
        except MalformedError:
            header = mended_header(data) if is_named else None
            return None if header is None else _Filed(name, header, is_intact=False)
        except (OSError, JournalVersionError):
            if is_named:
                raise
            return None

    def _of_one_journal(self, filed: Sequence[_Filed]) -> list[_Filed]:
        """Return the segments of this journal: the checkpoint's, or the one with most under their names.

        Of two alike it is the one with its first segment: without a checkpoint, none was ever dropped.
        """
        by_journal = defaultdict(list)
        for one in filed:
            by_journal[one.header.journal_id].append(one)
        if self._checkpoint is not None and self._checkpoint.journal_id in by_journal:
            return by_journal[self._checkpoint.journal_id]

        def weight(journal_id: bytes) -> tuple[int, bool]:
            right = [one for one in by_journal[journal_id] if one.is_right]
            return len(right), any(one.header.number == 1 for one in right)

        return by_journal[max(by_journal, key=weight)] if by_journal else []

    def _chain(self, ours: Iterable[_Filed]) -> list[_Filed]:
        """Return the segments that make up the journal, in order; where one is missing, with a hole."""
        best = self._best_copies(ours)
        paths = sorted(self._paths(best), key=_path_weight, reverse=True)
        chain: dict[int, _Filed] = {}
        for path in paths:
            if any(one.is_named for one in path) or not chain:
                chain |= {one.header.number: one for one in path if _fits(chain, path, one)}
        return self._without_unneeded([chain[number] for number in sorted(chain)])

    def _best_copies(self, ours: Iterable[_Filed]) -> dict[bytes, _Filed]:
        """Return one file for each segment: of several the one that holds most, then the one under its name."""
        copies = defaultdict(list)
        for one in ours:
            copies[one.header.id].append(one)
        return {
            id_: some[0] if len(some) == 1 else max(some, key=lambda one: (self._held(one), one.is_intact, one.is_right))
            for id_, some in copies.items()
        }

    def _held(self, one: _Filed) -> int:
        """Return how many records stand in it."""
        with opened(self._files, self._directory / one.name) as handle:
            size = self._files.size(handle)
            parts = walk(self._files, handle, salt_of(one.header.id), size, one.header.first_seq)
            return sum(part.header.records for part in parts if isinstance(part, Frame))

    def _paths(self, best: dict[bytes, _Filed]) -> list[list[_Filed]]:
        """Return the rows of segments each of which follows the one before, as long as they get."""
        followed = {one.header.previous_id for one in best.values()}
        paths = []
        for tip in [one for id_, one in best.items() if id_ not in followed]:
            path = [tip]
            while (before := best.get(path[0].header.previous_id)) is not None and before not in path:
                path.insert(0, before)
            paths.append(path)
        return paths

    def _without_unneeded(self, chain: list[_Filed]) -> list[_Filed]:
        """Leave out what stands before a hole, if the store has all that stood there."""
        stored_seq = self._checkpoint.seq if self._is_ours(chain) and self._checkpoint is not None else 0
        for at in range(len(chain) - 1, 0, -1):
            before, one = chain[at - 1].header, chain[at].header
            if (
                one.first_seq <= stored_seq
                and one.previous_id != before.id
                and not self._is_there(before.number + 1, one.number)
            ):
                return chain[at:]
        return chain

    def _is_there(self, start: int, end: int) -> bool:
        """Tell whether files stand under the names of segments start .. end (exclusive), damaged as they are."""
        return start < end and all(segment_name(number) in self._taken for number in range(start, end))

    def _is_ours(self, chain: list[_Filed]) -> bool:
        return bool(chain) and self._checkpoint is not None and chain[0].header.journal_id == self._checkpoint.journal_id

    def _set_aside(self, names: Iterable[str]) -> list[str]:
        aside = [self._free(name) for name in names]
        for name, new in zip(names, aside, strict=True):
            self._rename(name, new)
        if aside:
            self._files.flush_dir(self._directory)
        return aside

    def _move(self, moves: dict[str, str]) -> None:
        """Rename; where another still holds the place, by way of a stray's name, under which the next run would find it."""
        if not moves:
            return
        ways = {
            name: self._free(target) if target in self._taken or name in moves.values() else name
            for name, target in moves.items()
        }
        for name, way in ways.items():
            if way != name:
                self._rename(name, way)
        self._files.flush_dir(self._directory)
        for name, target in moves.items():
            self._rename(ways[name], target)
        self._files.flush_dir(self._directory)

    def _rename(self, old: str, new: str) -> None:
        self._files.rename(self._directory / old, self._directory / new)

    def _free(self, name: str) -> str:
        """Return a name for what cannot have `name`, and take it."""
        count, free = 1, name + STRAY
        while free in self._taken:
            count += 1
            free = f"{name}{STRAY}{count}"
        self._taken.add(free)
        return free


def _path_weight(path: list[_Filed]) -> tuple[int, int]:
    return sum(one.is_right for one in path), path[-1].header.first_seq


def _fits(chain: dict[int, _Filed], path: list[_Filed], one: _Filed) -> bool:
    """Tell whether `one` stands in a hole of `chain`: nothing there contradicts its number, its records or what it follows."""
    number, header = one.header.number, one.header
    for other in chain.values():
        if other in path:
            continue
        there = other.header
        is_in_order = there.first_seq >= header.first_seq if there.number > number else there.first_seq <= header.first_seq
        if there.number == number or not is_in_order:
            return False
        if there.number == number + 1 or there.number == number - 1:  # they would be linked
            return False
    return True
