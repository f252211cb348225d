"""Files in a folder that goes with its process: nothing in it need last, nor have its room beforehand."""

from __future__ import annotations

import os
from pathlib import Path

from kqs.journal.files import OsFiles


class PassingFiles(OsFiles):
    """See the module docstring, and kqs.journal.files.Files."""

    def begin_flush(self, handle: int, count: int, offset: int) -> None:
        """See Files."""

    def flush(self, handle: int) -> None:
        """See Files."""

    def flush_dir(self, path: Path) -> None:
        """See Files."""

    def allocate(self, handle: int, count: int) -> None:
        """See Files. The length is there; room is taken as it is written to."""
        os.ftruncate(handle, count)
