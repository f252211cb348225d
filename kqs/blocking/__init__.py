"""`kqs.open` and `kqs.connect` for programs without asyncio: the same methods, each of which returns when it is done."""

from kqs.blocking.queue import Job, Queue, TakenRun, connect
from kqs.blocking.queue import open_queue as open  # noqa: A004 - users write kqs.blocking.open

__all__ = ["Job", "Queue", "TakenRun", "connect", "open"]
