"""Long work on a journal, with a bar that follows what it reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kqs.cli.progress import Progress, shown_progress
from kqs.journal import Files, OsFiles
from kqs.journal.segment import segment_number
from kqs.journal.survey import Report


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
    segments = [path for path in folder.iterdir() if segment_number(path.name) is not None]
    with shown_progress(what, reads * sum(path.stat().st_size for path in segments)) as progress:
        return work(folder, WatchedFiles(progress))
