"""What `kqs bench` measures: one Python process loads a server over TCP, so its figures are a floor of what that can do.

Every measure asks the real server through the same client that users have, and checks what came back.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec

from kqs.client import Address, Client

#: calls without an answer at a time, and the connections that share them where one is not what is measured
IN_FLIGHT = 1000
CONNECTIONS = 8
#: the size of a job's data, in bytes
DATA_BYTES = 200
#: a type that no handler takes, and one that every server runs
UNTAKEN_TYPE, TAKEN_TYPE = "kqs-bench", "echo"

#: how long the server may take for a call, or for all jobs of a measure; and how often it is looked whether it has, in s
_TIMEOUT_S = 120.0
_POLL_S = 0.01


class Figure(msgspec.Struct, frozen=True):
    """One line of the result. detail: what `value` alone does not say."""

    name: str
    value: float
    unit: str
    detail: str = ""


@asynccontextmanager
async def clients(server: Address, count: int) -> AsyncIterator[list[Client]]:
    """Open `count` clients that share IN_FLIGHT calls."""
    async with AsyncExitStack() as stack:
        share = max(1, IN_FLIGHT // count)
        yield [await stack.enter_async_context(Client(server, timeout_s=_TIMEOUT_S, max_in_flight=share)) for _ in range(count)]


async def pipeline(client: Client, name: str, arg: bytes, count: int) -> None:
    """Call `count` times, as many in flight as the client allows. Raises: the first call's trouble."""
    done = asyncio.get_running_loop().create_future()
    left = count

    def answered(answer: asyncio.Future[msgspec.Raw]) -> None:
        nonlocal left
        left -= 1
        if done.done():
            answer.exception()
        elif error := answer.exception():
            done.set_exception(error)
        elif left == 0:
            done.set_result(None)

    for _ in range(count):
        (await client.start(name, arg)).add_done_callback(answered)
        if done.done():
            break
    await done


async def echo(server: Address, count: int) -> list[Figure]:
    """Measure echoes on one connection."""
    async with clients(server, 1) as [client]:
        seconds = await _timed(pipeline(client, "echo", b'"kqs"', count))
    return [Figure("echo", count / seconds, "/s", f"{count:,} calls, {IN_FLIGHT:,} in flight, 1 connection")]


async def insert(server: Address, count: int) -> list[Figure]:
    """Measure flushed inserts of jobs that nobody runs, and how long the store takes to catch up with the journal."""
    share = count // CONNECTIONS
    async with clients(server, CONNECTIONS) as many:
        seconds = await _timed(_all(pipeline(client, "insert", _job(UNTAKEN_TYPE), share) for client in many))
        behind = await _timed(_until(many[0], lambda stats: stats["journal_unfed_records"] == 0))
    detail = f"{share * CONNECTIONS:,} jobs of {DATA_BYTES} B, {IN_FLIGHT:,} in flight, {CONNECTIONS} connections"
    return [
        Figure("insert", share * CONNECTIONS / seconds, "jobs/s", detail),
        Figure("insert, store behind", behind, "s", "from the last answer until the store has all"),
    ]


async def run(server: Address, count: int) -> list[Figure]:
    """Measure jobs from insert to stored finish."""
    share = count // CONNECTIONS
    total = share * CONNECTIONS
    async with clients(server, CONNECTIONS) as many:
        before = (await many[0].call("stats"))["runs_done"]

        async def work() -> None:
            await _all(pipeline(client, "insert", _job(TAKEN_TYPE), share) for client in many)
            await _until(many[0], lambda stats: stats["runs_done"] >= before + total)

        seconds = await _timed(work())
    return [Figure("run", total / seconds, "jobs/s", f"{total:,} jobs of type {TAKEN_TYPE}, from insert to finish")]


async def latency(server: Address, count: int) -> list[Figure]:
    """Measure one job at a time on an idle server: to the answer, and to its run's start, if the clock is the same."""
    answers, starts = [], []
    async with clients(server, 1) as [client]:
        for _ in range(count):
            sent_at, begin = time.time(), time.perf_counter()
            job_id = await client.insert(TAKEN_TYPE)
            answers.append(time.perf_counter() - begin)
            starts.append(await _started_at(client, job_id) - sent_at)
    return [*_quantiles("insert, one at a time", answers), *_quantiles("insert to run", starts)]


async def _started_at(client: Client, job_id: str) -> float:
    while True:
        job: dict[str, Any] = await client.call("job", job_id)
        if job["state"] == "success":
            return float(job["runs"][0]["started_at"])
        await asyncio.sleep(_POLL_S)


def _quantiles(name: str, seconds: Sequence[float]) -> list[Figure]:
    ranked = sorted(seconds)
    picks = [(share, ranked[math.ceil(len(ranked) * share / 100) - 1]) for share in (50, 99)]
    return [Figure(f"{name}, p{share}", value * 1000, "ms", f"{len(ranked):,} jobs") for share, value in picks]


def _job(type_: str) -> bytes:
    return msgspec.json.encode({"type": type_, "data": "x" * (DATA_BYTES - 2)})


async def _all(works: Any) -> None:
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(work)


async def _timed(work: Any) -> float:
    begin = time.perf_counter()
    await work
    return time.perf_counter() - begin


async def _until(client: Client, reached: Callable[[dict[str, Any]], bool]) -> None:
    async with asyncio.timeout(_TIMEOUT_S):
        while not reached(await client.call("stats")):  # noqa: ASYNC110  # the event is in another process
            await asyncio.sleep(_POLL_S)
