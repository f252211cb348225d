"""KQS: a durable job queue you talk to in lines of JSON over TCP.

For handlers: `handler`, `Again`, `Fail`, `JobContext`. They load on first use, so that the floors below them stay light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kqs.handlers import JobContext, handler
    from kqs.verdicts import Again, Fail

__version__ = "0.1.0"
__all__ = ["Again", "Fail", "JobContext", "__version__", "handler"]


def __getattr__(name: str) -> Any:
    if name in ("handler", "JobContext"):
        from kqs import handlers

        return getattr(handlers, name)
    if name in ("Again", "Fail"):
        from kqs import verdicts

        return getattr(verdicts, name)
    raise AttributeError(f"module 'kqs' has no attribute {name!r}")
