"""Long work on a journal, with a bar that follows what it reads."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from kqs.cli.progress import Progress, shown_progress
from kqs.journal import Files, OsFiles
from kqs.journal.survey import Report, segment_names


class WatchedFiles(OsFiles):
    """The disk, which says how much of it is read."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def read(self, handle: int, count: int, offset: int) -> bytes:
        """See Files."""
        data = super().read(handle, count, offset)
        self._progress.advance(len(data))
        return data


def watched(what: str, work: Callable[[Path, Files], Report], folder: Path, reads: int) -> Report:
    """Return what `work` makes of the journal in `folder`. reads: how often it reads every segment. Raises: as `work`."""
    with shown_progress(what, reads * _segment_bytes(folder)) as progress:
        return work(folder, WatchedFiles(progress))


def _segment_bytes(folder: Path) -> int:
    count = 0
    for name in segment_names(OsFiles(), folder):
        with suppress(FileNotFoundError):  # a server that runs drops what its store has
            count += (folder / name).stat().st_size
    return count
