"""The library: a queue inside a program, and the same methods against a server. Its users take it from `kqs`."""

from kqs.library.apart import BulkStoreError
from kqs.library.bulk import BulkStore, FolderBulk
from kqs.library.far import FarQueue, connect
from kqs.library.job import Job, JobRecord
from kqs.library.node import NodeQueue, QueueFailedError, open_queue
from kqs.library.queue import Queue
from kqs.library.run import TakenRun

__all__ = [
    "BulkStore",
    "BulkStoreError",
    "FarQueue",
    "FolderBulk",
    "Job",
    "JobRecord",
    "NodeQueue",
    "Queue",
    "QueueFailedError",
    "TakenRun",
    "connect",
    "open_queue",
]
