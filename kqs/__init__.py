"""KQS: a durable job queue you talk to in lines of JSON over TCP.

For handlers: `handler`, `Again`, `Fail`, `JobContext`. For programs: `open`, `connect` and what these give. They load on first
use, so that the floors below them stay light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kqs.handlers import JobContext, handler
    from kqs.library import (
        BulkStore,
        BulkStoreError,
        FolderBulk,
        Job,
        JobRecord,
        Queue,
        QueueFailedError,
        TakenRun,
        connect,
    )
    from kqs.library import open_queue as open  # noqa: A004 - users write kqs.open
    from kqs.verdicts import Again, Fail

__version__ = "0.1.0"
__all__ = [
    "Again",
    "BulkStore",
    "BulkStoreError",
    "Fail",
    "FolderBulk",
    "Job",
    "JobContext",
    "JobRecord",
    "Queue",
    "QueueFailedError",
    "TakenRun",
    "__version__",
    "connect",
    "handler",
    "open",
]

#: by name, where it stands
_HOMES = {
    "Again": "kqs.verdicts",
    "Fail": "kqs.verdicts",
    "JobContext": "kqs.handlers",
    "handler": "kqs.handlers",
    **dict.fromkeys(
        (
            "BulkStore",
            "BulkStoreError",
            "FolderBulk",
            "Job",
            "JobRecord",
            "Queue",
            "QueueFailedError",
            "TakenRun",
            "connect",
            "open",
        ),
        "kqs.library",
    ),
}


def __getattr__(name: str) -> Any:
    if (home := _HOMES.get(name)) is None:
        raise AttributeError(f"module 'kqs' has no attribute {name!r}")
    return getattr(importlib.import_module(home), "open_queue" if name == "open" else name)
