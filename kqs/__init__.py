"""KQS: a durable job queue you talk to in lines of JSON over TCP.

For handlers: `handler`, `Again`, `Fail`, `JobContext`. For programs: `open`, `connect` and what these give. They load on first
use, so that the floors below them stay light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kqs.client import CallTimeoutError, ConnectionLostError
    from kqs.errors import CallError, KqsError, StartupError
    from kqs.handlers import HandlerError, JobContext, handler
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
    "CallError",
    "CallTimeoutError",
    "ConnectionLostError",
    "Fail",
    "FolderBulk",
    "HandlerError",
    "Job",
    "JobContext",
    "JobRecord",
    "KqsError",
    "Queue",
    "QueueFailedError",
    "StartupError",
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
    **dict.fromkeys(("HandlerError", "JobContext", "handler"), "kqs.handlers"),
    **dict.fromkeys(("CallError", "KqsError", "StartupError"), "kqs.errors"),
    **dict.fromkeys(("CallTimeoutError", "ConnectionLostError"), "kqs.client"),
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


def __dir__() -> list[str]:
    return __all__
