"""Pipelined puts as the beanstalkd broker sends them: python -m bench.puts PORT TOTAL IN_FLIGHT BYTES CORE; prints JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import uvloop

from kqs.broker.beanstalkd.link import Link
from kqs.supervisor import Supervisor
from kqs.wire.beanstalk.commands import Put, Use
from kqs.wire.beanstalk.values import Inserted, Reply

BATCH = 100


async def measure(port: int, total: int, in_flight: int, size_bytes: int) -> float:
    """Return puts a second."""
    supervisor = Supervisor(lambda name, error: sys.exit(f"{name}: {error}"))
    link = await Link.open(f"127.0.0.1:{port}", lambda reason: None, supervisor)
    await link.ask(Use("kq-bench"))
    body = b"x" * size_bytes
    room = asyncio.Semaphore(in_flight // BATCH)
    inserted = 0
    finished = asyncio.Event()

    def done(replies: list[Reply] | None) -> None:
        nonlocal inserted
        assert replies is not None
        inserted += sum(isinstance(reply, Inserted) for reply in replies)
        room.release()
        if inserted >= total:
            finished.set()

    began = time.monotonic()
    for _ in range(0, total, BATCH):
        await room.acquire()
        link.send([Put(10_000, 0, 60, body) for _ in range(BATCH)], done)
    await finished.wait()
    return total / (time.monotonic() - began)


def main() -> None:
    """Measure and print."""
    port, total, in_flight, size_bytes, core = map(int, sys.argv[1:])
    os.sched_setaffinity(0, {core})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps({"rate": runner.run(measure(port, total // BATCH * BATCH, in_flight, size_bytes))}))


if __name__ == "__main__":
    main()
