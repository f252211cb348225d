from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from kqs.journal import JOURNAL_FILES
from kqs.journal.reserve import NAME
from tests.support.files import MemoryFiles
from tests.support.journal import a_journal, a_record, appended


class NotingFiles(MemoryFiles):
    """Notes the names of the files that are opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: set[str] = set()

    def create(self, path: Path) -> int:
        self.opened.add(path.name)
        return super().create(path)

    def open(self, path: Path, *, writable: bool = False) -> int:
        self.opened.add(path.name)
        return super().open(path, writable=writable)


async def test_whatever_a_journal_opens_is_known_to_be_its_own() -> None:
    files = NotingFiles()
    for _ in range(2):
        journal = a_journal(files)
        await journal.start()
        await appended(journal, a_record())
        await journal.checkpoint(1)
        await journal.stop()
    assert files.opened > {"checkpoint", NAME}
    assert [name for name in files.opened if not any(fnmatch(name, pattern) for pattern in JOURNAL_FILES)] == []
