"""The server over real sockets: how many, how long, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from kqs.server import draining
from kqs.server.connection import Connection
from kqs.server.server import RESERVED_CONNECTIONS
from tests.support.talking import LOOPS, Talk, talking
from tests.support.turning import until

INSERT = b'{"id":1,"n":"insert","m":{"type":"x"}}\n'


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_calls_are_answered(loop: str) -> None:
    with talking(loop) as talk:
        assert talk.ask(b'{"n":"ping"}\n') == b'{"v":1,"s":"end","m":"pong"}\n'


def test_one_connection_more_than_allowed_is_busy(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "is_of_this_machine", False)
    with talking(loop, max_connections=1) as talk:

        async def exceed() -> tuple[bytes, bytes]:
            _, first = await talk.connect()
            first_reply = await ask_on(talk, b"")
            first.close()
            await first.wait_closed()
            await until(lambda: not talk.server.context.counters.connections_open)
            return first_reply, await ask_on(talk, b'{"n":"ping"}\n')

        refused, accepted = talk.run(exceed())
    assert b'"busy"' in refused
    assert b'"pong"' in accepted


def test_beyond_the_most_connections_this_machine_may_administer_and_no_more(loop: str) -> None:
    calls = b'{"n":"ping"}\n{"n":"echo","m":1}\n' + INSERT + b'{"jsonrpc":"2.0","id":1,"method":"adopt","params":[]}\n'
    calls += b'{"n":"batch","m":{"jobs":[],"then":{"type":"ping"}}}\n{"n":"reserve","m":{"types":["ping"]}}\n'
    calls += b'{"n":"work","m":{"types":["ping"]}}\n'
    with talking(loop, max_connections=1) as talk:

        async def exceed() -> list[bytes]:
            _, first = await talk.connect()
            reply = await ask_on(talk, calls)
            first.close()
            return reply.splitlines()

        assert [b"busy" in answer for answer in talk.run(exceed())] == [False, *[True] * 6]
        assert talk.backend.journal.records == []


def test_a_connection_for_administration_may_do_all_once_there_is_room(loop: str) -> None:
    with talking(loop, max_connections=1) as talk:

        async def exceed() -> list[bytes]:
            _, first = await talk.connect()
            reader, writer = await talk.connect()
            answers = []
            for _ in range(2):
                writer.write(INSERT)
                answers.append(await reader.readline())
                first.close()
                await until(lambda: talk.server.context.counters.connections_open == 1)
            writer.close()
            return answers

        assert [b"busy" in answer for answer in talk.run(exceed())] == [True, False]


def test_who_holds_the_reserve_without_use_cannot_keep_others_from_it(loop: str, tmp_path: Path) -> None:
    path = str(tmp_path / "kqs.sock")
    with talking(loop, max_connections=1, socket=path) as talk:

        async def exceed() -> list[bytes]:
            crowd = [await talk.connect() for _ in range(40)]
            local = [await asyncio.open_unix_connection(path) for _ in range(20)]
            await until(lambda: talk.server.context.counters.connections_open == 1 + 2 * RESERVED_CONNECTIONS)
            answers = [await ask_on(talk, b'{"n":"ping"}\n')]
            for reader, writer in local[-RESERVED_CONNECTIONS:]:
                writer.write(b'{"n":"ping"}\n')
                answers.append(await reader.readline())
            for _, writer in crowd + local:
                writer.close()
            return answers

        assert all(b"pong" in answer for answer in talk.run(exceed()))


async def ask_on(talk: Talk, data: bytes) -> bytes:
    reader, writer = await talk.connect()
    writer.write(data)
    writer.write_eof()
    reply = await reader.read()
    writer.close()
    return reply


def test_stop_answers_what_was_asked_and_closes(loop: str) -> None:
    with talking(loop) as talk:
        talk.backend.journal.held = True

        async def stop_in_between() -> bytes:
            reader, writer = await talk.connect()
            writer.write(INSERT)
            await until(lambda: talk.backend.inserter.unflushed_bytes > 0)
            stopping = asyncio.get_running_loop().create_task(talk.server.stop())
            await asyncio.sleep(0)
            talk.backend.journal.flush()
            await stopping
            reply = await reader.read()
            writer.close()
            return reply

        assert msgspec.json.decode(talk.run(stop_in_between()))["id"] == 1


def test_stop_cuts_off_a_peer_that_cannot_be_answered_in_time(loop: str) -> None:
    with talking(loop, stop_s=0.01) as talk:
        talk.backend.journal.held = True

        async def stop_without_a_flush() -> None:
            _, writer = await talk.connect()
            writer.write(INSERT)
            await until(lambda: talk.backend.inserter.unflushed_bytes > 0)
            await talk.server.stop()
            writer.close()

        talk.run(stop_without_a_flush())
        assert talk.server.context.counters.connections_open == 0


@pytest.mark.parametrize("reads", [True, False])
def test_stop_waits_for_a_peer_as_long_as_it_takes_its_answers(loop: str, reads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "HURRIED_S", 0.2)
    asked = 0
    with talking(loop, stop_s=15.0) as talk, socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        peer.connect(talk.server.addresses[0])
        peer.setblocking(False)
        call = b'{"n":"echo","m":"%b"}\n' % (b"x" * 50_000)

        async def ask() -> None:
            nonlocal asked
            while not any(connection._is_blocked for connection in talk.server._connections):
                with contextlib.suppress(BlockingIOError):
                    asked += peer.send(call[asked % len(call) :])
                await asyncio.sleep(0)

        async def stop() -> float:
            began = time.monotonic()
            stopping = asyncio.get_running_loop().create_task(talk.server.stop())
            while reads and not stopping.done():
                is_slow = time.monotonic() - began < 1  # too slow for the server to be told each time that there is room
                with contextlib.suppress(BlockingIOError):
                    peer.recv(1 << 14 if is_slow else 1 << 20)
                await asyncio.sleep(0.02 if is_slow else 0)
            await stopping
            return time.monotonic() - began

        talk.run(ask())
        aborted = talk.server.context.counters.connections_aborted
        took_s = talk.run(stop())
        assert took_s < 10
        assert talk.server.context.counters.connections_aborted == aborted + (not reads)


def test_stop_is_idempotent_and_stops_accepting(loop: str) -> None:
    with talking(loop) as talk:
        host, port = talk.server.addresses[0]
        talk.run(talk.server.stop())
        talk.run(talk.server.stop())
        talk.run(asyncio.sleep(0))
        with socket.socket() as probe:
            assert probe.connect_ex((host, port)) != 0


def test_a_vanished_client_does_not_keep_the_others_answers(loop: str) -> None:
    with talking(loop) as talk:
        talk.backend.journal.held = True

        async def vanish() -> bytes:
            reader, writer = await talk.connect()
            _, vanishing = await talk.connect()
            vanishing.write(INSERT)
            writer.write(INSERT)
            await until(lambda: talk.backend.inserter.unflushed_bytes > len(INSERT))
            vanishing.transport.abort()
            talk.backend.journal.flush()
            reply = await reader.readline()
            writer.close()
            return reply

        assert b'"end"' in talk.run(vanish())


def test_a_worker_that_vanishes_is_noticed_though_it_is_sent_jobs_and_others_may_take_their_time(loop: str) -> None:
    with talking(loop) as talk:

        async def begin_to_work() -> list[int]:
            _, writer = await talk.connect()
            await until(lambda: bool(talk.server._connections))
            (connection,) = talk.server._connections
            standing = connection._peer.standing
            standing._desk = SimpleNamespace(party=lambda where: None)  # type: ignore[assignment]  # there is none here
            sock = connection._transport.get_extra_info("socket")  # type: ignore[union-attr]  # it is connected
            before_ms = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            standing.asking()
            after_ms = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            writer.close()
            await writer.wait_closed()
            return [before_ms, after_ms]

        assert talk.run(begin_to_work()) == [0, 120_000]


def test_one_connections_fault_does_not_keep_the_others_answers(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with talking(loop) as talk:
        wake = Connection.wake
        broken: list[Connection] = []

        def break_the_first(connection: Connection) -> None:
            broken.append(connection)
            if connection is broken[0]:
                raise RuntimeError("a bug")
            wake(connection)

        monkeypatch.setattr(Connection, "wake", break_the_first)
        talk.ask(INSERT)
        assert talk.server.context.counters.connections_aborted == 1
        assert b'"end"' in talk.ask(INSERT)


def test_a_connection_that_comes_while_the_server_stops_is_told_so(loop: str) -> None:
    with talking(loop) as talk:
        talk.server._is_stopping = True
        assert b'"draining"' in talk.run(ask_on(talk, b""))
