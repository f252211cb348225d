"""Workers that are many, deaf or rude: the server's memory is bounded, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import time
from pathlib import Path

import pytest

from tests.support.asking import ask, eventually, until
from tests.support.memory import MIB, resident_bytes
from tests.support.serving import PLAIN_ENVIRON, SERVE, serving
from tests.support.wire_worker import WireWorker, working_at

CONNECTIONS = 1000
#: what a claim brings of data, as it was read, in its answers, and on its way to the socket
DEAF_BYTES = 250 * MIB


@pytest.mark.alone
def test_a_worker_that_never_reads_costs_bounded_memory_and_nobody_a_turn(tmp_path: Path) -> None:
    with (
        serving(tmp_path, SERVE, PLAIN_ENVIRON, JOURNAL__MIN_FREE_BYTES="0") as server,
        working_at(server) as other,
        socket.socket() as deaf,
    ):
        data = "x" * MIB
        for _ in range(8):
            other.call("insert", [{"type": "long", "data": data, "ghost_delay": 0}] * 10)
        until(server, journal_unfed_records=0)
        other.call("insert", [{"type": "short"}] * 50)
        before = resident_bytes(server.process.pid)
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", server.port))
        deaf.sendall(b'{"n":"work","m":{"types":["long"],"room":75}}\n')
        eventually(lambda: ask(server, "stats")["running_remote"], lambda running: running > 0)
        slowest_s = 0.0
        for _ in range(50):
            began = time.monotonic()
            (run,) = other.reserve("short")
            assert other.finish(run["run"]) == [True]
            slowest_s = max(slowest_s, time.monotonic() - began)
            assert ask(server, "stats")["running_remote"] <= 66  # the first claim, and a short job
        grown = resident_bytes(server.process.pid, most=True) - before
        print(f"a deaf worker: {grown / MIB:.0f} MiB more at most, others served within {slowest_s * 1000:.0f} ms")
        assert grown < DEAF_BYTES
        assert slowest_s < 3
        deaf.close()
        done: set[str] = set()
        while len(done) < 80:
            for run in other.reserve("long", count=50):
                assert other.finish(run["run"]) == [True]
                done.add(run["id"])
        until(server, running_remote=0, jobs_success=130)
        assert server.stop() == 0


def test_a_thousand_who_wait_are_served_in_the_order_of_asking(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2 * CONNECTIONS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * CONNECTIONS), hard))
    with serving(tmp_path, SERVE, PLAIN_ENVIRON) as server:
        print(asyncio.run(asyncio.wait_for(_wait_in_order(server.port, server.process.pid), 60)))
        assert ask(server, "stats")["running_remote"] == 0
        assert server.stop() == 0


async def _wait_in_order(port: int, pid: int) -> str:
    call = b'{"id":1,"n":"reserve","m":{"types":["line"],"wait":1000}}\n{"id":2,"n":"ping"}\n'
    peers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS)]
    idle = resident_bytes(pid)
    for reader, writer in peers:
        writer.write(call)
        assert b'"pong"' in await reader.readline()
    waiting = resident_bytes(pid) - idle
    inserts, sends = await asyncio.open_connection("127.0.0.1", port)

    async def insert(count: int) -> list[str]:
        sends.write(b'{"n":"insert","m":[%b]}\n' % b",".join([b'{"type":"line"}'] * count))
        ids: list[str] = json.loads(await inserts.readline())["m"]
        return ids

    (first,) = await insert(1)
    assert json.loads(await peers[0][0].readline())["m"][0]["id"] == first
    sends.write(b'{"n":"stats"}\n')
    assert json.loads(await inserts.readline())["m"]["running_remote"] == 1
    ids = await insert(CONNECTIONS - 1)
    answers = [json.loads(await reader.readline())["m"] for reader, _ in peers[1:]]
    assert [run["id"] for runs in answers for run in runs] == ids
    for _, writer in peers:
        writer.transport.abort()
    sends.write(b'{"n":"stats"}\n')
    while json.loads(await inserts.readline())["m"]["running_remote"]:
        sends.write(b'{"n":"stats"}\n')
    sends.transport.abort()
    return f"{CONNECTIONS} waiting in reserve: {waiting / CONNECTIONS / 1024:.1f} KiB each"


@pytest.mark.parametrize("names", ["one", "each its own"])
def test_many_who_wait_cost_inserts_little(tmp_path: Path, names: str) -> None:
    with serving(tmp_path, SERVE, PLAIN_ENVIRON) as server, working_at(server) as other:
        workers = [WireWorker(server.port) for _ in range(10)]
        try:
            for number, worker in enumerate(workers):
                for call in range(100):
                    name = f"w{number}-{call}" if names != "one" else "w"
                    worker.send("work", {"types": ["never"], "worker": name})
                worker.call("ping")
            began = time.monotonic()
            for _ in range(200):
                other.call("insert", {"type": "lone", "keep": 0})
            each_ms = (time.monotonic() - began) * 5
            print(f"1,000 standing, names: {names}: {each_ms:.2f} ms an insert")
            assert each_ms < 50
        finally:
            for worker in workers:
                worker.close()
        until(server, connections=2)
        assert server.stop() == 0
