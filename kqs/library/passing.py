"""The folder of a queue that keeps nothing: in memory, where there is such a place, and gone when the queue is closed."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: what a program names in the place of a folder, to have such a queue
MEMORY = ":memory:"
#: files here are in memory, where there is such a folder
_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - each queue has a folder of its own in it
#: of the journal: small enough to be made at once, and no memory is held back for others
_JOURNAL: dict[str, Any] = {"segment_bytes": 1024 * 1024, "min_free_bytes": 0}


def passing_folder() -> Path:
    """Return a new name for such a folder, which is made, for us alone, as the queue is opened."""
    base = _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    return base / f"kqs-{secrets.token_hex(8)}"


def passing_sections(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the settings of a queue in such a folder, where `sections` say nothing else."""
    return {**sections, "journal": {**_JOURNAL, **sections.get("journal", {})}}
