"""What a batch costs the server on its way into the journal."""

from __future__ import annotations

import tracemalloc

from kqs.rpc.slices import Slices
from kqs.wire.steps import Steps
from tests.support.conversing import Conversing

DATA_BYTES = 1_000_000
JOB = b'{"type":"x","data":"%b"}' % (b"x" * DATA_BYTES)


class Weighing(Slices):
    """Does in one go what takes long, and takes note of the most that is held between two steps."""

    held_bytes = 0

    def run(self, work: Steps[None], size: int = 0) -> None:
        for _ in work:
            self.held_bytes = max(self.held_bytes, tracemalloc.get_traced_memory()[0])


def held_bytes(line: bytes) -> int:
    """Return the most that is held for a line between two steps, when others of its kind have their turns."""
    talk = Conversing(max_line_bytes=2 * DATA_BYTES)
    talk.context.slices = weighing = Weighing(talk.context.supervisor)
    talk.backend.journal.held = True
    tracemalloc.start()
    try:
        talk.hear(line)
    finally:
        tracemalloc.stop()
    assert talk.backend.inserter.unflushed_bytes > DATA_BYTES
    return weighing.held_bytes


async def test_a_long_batch_is_held_no_more_often_than_an_array_of_its_jobs() -> None:
    array = held_bytes(b'{"n":"insert","m":[%b]}\n' % JOB)
    assert held_bytes(b'{"n":"batch","m":{"jobs":[%b],"then":{"type":"x"}}}\n' % JOB) < array + DATA_BYTES // 2
