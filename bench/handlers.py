"""The handlers that the benchmarks run: one that does nothing, one that works, one that says when it began."""

import asyncio
import os
import time

import kqs

#: a FIFO that `stamp` writes CLOCK_MONOTONIC to, in ns, a line a run
STAMPS = os.environ.get("KQS_BENCH_STAMPS", "")


@kqs.handler("noop")
async def noop(data: object) -> None:
    """Do nothing."""


@kqs.handler("burn")
async def burn(data: object) -> None:
    """Take 1 ms of CPU."""
    until_ns = time.thread_time_ns() + 1_000_000
    while time.thread_time_ns() < until_ns:
        pass


if STAMPS:
    _stamps = os.open(STAMPS, os.O_WRONLY)

    @kqs.handler("stamp")
    async def stamp(data: object) -> None:
        """Write the time of the handler's first line."""
        os.write(_stamps, b"%d\n" % time.monotonic_ns())

    @kqs.handler("span")
    async def span(data: object) -> None:
        """Take 1 ms; write the time of the first line and of the last."""
        began_ns = time.monotonic_ns()
        await asyncio.sleep(0.001)
        os.write(_stamps, b"%d\n%d\n" % (began_ns, time.monotonic_ns()))
