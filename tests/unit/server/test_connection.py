"""One connection over a transport that records: when it writes, reads, rests and closes."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from kqs.config import ServerSection
from kqs.errors import CallError
from kqs.rpc.context import Context
from kqs.server import connection as connection_module
from kqs.server import draining
from kqs.server.connection import Connection
from kqs.server.resets import Resets
from tests.support.backend import MemoryBackend
from tests.support.supervising import StrictSupervisor
from tests.support.turning import until

INSERT = b'{"id":1,"n":"insert","m":{"type":"x"}}\n'
PING = b'{"n":"ping"}\n'
PONG = b'{"v":1,"s":"end","m":"pong"}\n'


@pytest.fixture(autouse=True)
def _no_slice_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be put off to a later tick because the machine is slow: here no tick comes by itself."""
    monkeypatch.setattr(connection_module, "SLICE_S", 60.0)


class RecordingTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.untaken = 0
        self.is_read = True
        self.is_closed = False
        self.is_aborted = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.untaken

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.is_closed:
            raise RuntimeError("closed")  # as uvloop does
        self.writes.append(bytes(data))

    def pause_reading(self) -> None:
        assert self.is_read
        self.is_read = False

    def resume_reading(self) -> None:
        assert not self.is_read
        self.is_read = True

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True


class StubOwner:
    """Wakes when `turn` is called, in place of the end of the tick."""

    def __init__(self, max_in_flight: int = 100) -> None:
        self.backend = MemoryBackend()
        self.backend.journal.held = True
        supervisor = StrictSupervisor()
        self.context = Context(self.backend, supervisor, self.backend.request_stop, ServerSection(max_in_flight=max_in_flight))
        self.resets = Resets(supervisor)
        self.refusal: CallError | None = None
        self.to_wake: set[Connection] = set()
        self.lost: list[Connection] = []
        self.foreign: list[Connection] = []

    def admit(self, connection: Connection) -> CallError | None:
        return self.refusal

    def dismiss(self, connection: Connection) -> None:
        self.lost.append(connection)

    def wake_later(self, connection: Connection) -> None:
        self.to_wake.add(connection)

    def wake_now(self, connection: Connection) -> None:
        connection.wake()

    def wake_when_flushed(self, connection: Connection) -> None:
        self.to_wake.add(connection)

    def wake_when_relieved(self, connection: Connection) -> None:
        self.to_wake.add(connection)

    def note_foreign(self, connection: Connection) -> None:
        self.foreign.append(connection)

    def may_keep(self, connection: Connection) -> bool:
        return False

    def turn(self) -> None:
        woken, self.to_wake = self.to_wake, set()
        for connection in woken:
            connection.wake()

    def flush(self) -> None:
        self.backend.journal.flush()
        self.turn()


def connected(owner: StubOwner) -> tuple[Connection, RecordingTransport]:
    connection, transport = Connection(owner, ServerSection(max_line_bytes=10_000)), RecordingTransport()
    connection.connection_made(transport)
    return connection, transport


async def test_what_one_piece_of_input_answers_is_one_write() -> None:
    connection, transport = connected(StubOwner())
    connection.data_received(PING * 50)
    assert transport.writes == [PONG * 50]


async def test_what_one_flush_answers_is_one_write() -> None:
    owner = StubOwner()
    connection, transport = connected(owner)
    connection.data_received(INSERT)
    connection.data_received(INSERT)
    owner.flush()
    assert len(transport.writes) == 1
    assert transport.writes[0].count(b"\n") == 2


async def test_everything_asked_before_the_end_of_input_is_answered_before_the_close() -> None:
    owner = StubOwner()
    connection, transport = connected(owner)
    connection.data_received(INSERT)
    assert connection.eof_received() is True
    assert not transport.is_closed
    owner.flush()
    assert transport.writes
    assert transport.is_closed


async def test_the_end_of_input_closes_a_connection_that_owes_nothing() -> None:
    connection, transport = connected(StubOwner())
    connection.eof_received()
    assert transport.is_closed


async def test_a_peer_with_too_much_in_flight_is_not_read_until_it_is_answered() -> None:
    owner = StubOwner(max_in_flight=2)
    connection, transport = connected(owner)
    connection.data_received(INSERT * 2)
    assert not transport.is_read
    owner.flush()
    assert transport.is_read


async def test_a_peer_that_does_not_take_its_answers_is_not_read() -> None:
    owner = StubOwner()
    connection, transport = connected(owner)
    connection.pause_writing()
    assert not transport.is_read
    connection.resume_writing()
    owner.turn()
    assert transport.is_read


async def test_input_that_came_before_the_rest_is_held_and_run_after_it() -> None:
    owner = StubOwner()
    connection, transport = connected(owner)
    connection.pause_writing()
    connection.data_received(PING)
    assert not transport.writes
    connection.resume_writing()
    owner.turn()
    assert transport.writes == [PONG]


async def test_a_peer_that_takes_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "UNDRAINED_S", 0)
    connection, transport = connected(StubOwner())
    connection.pause_writing()
    await until(lambda: transport.is_aborted)


async def test_a_peer_that_takes_its_answers_slowly_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "UNDRAINED_S", 0)
    connection, transport = connected(StubOwner())
    connection.data_received(PING * 100)
    transport.untaken = 100
    connection.pause_writing()
    for _ in range(50):
        transport.untaken -= 1
        await asyncio.sleep(0)
    assert not transport.is_aborted
    connection.connection_lost(None)


async def test_a_peer_is_not_cut_off_for_the_time_in_which_the_server_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "UNDRAINED_S", 0.01)
    connection, transport = connected(StubOwner())
    resumed = asyncio.Event()

    def resume() -> None:
        connection.resume_writing()
        resumed.set()

    connection.pause_writing()
    time.sleep(0.5)  # noqa: ASYNC251 - holding the loop up is the test
    asyncio.get_running_loop().call_later(0.1, resume)
    await resumed.wait()
    assert not transport.is_aborted
    connection.connection_lost(None)


async def test_answers_that_nobody_takes_do_not_keep_a_closing_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "UNDRAINED_S", 0)
    connection, transport = connected(StubOwner())
    transport.untaken = 10
    connection.eof_received()
    assert transport.is_closed
    await until(lambda: transport.is_aborted)


async def test_an_answer_to_a_peer_that_is_gone_is_dropped() -> None:
    owner = StubOwner()
    connection, transport = connected(owner)
    connection.data_received(INSERT)
    connection.connection_lost(ConnectionResetError())
    owner.flush()
    assert not transport.writes
    assert owner.lost == [connection]


async def test_an_answer_to_a_transport_that_is_closing_is_dropped() -> None:
    owner = StubOwner()
    connection, transport = connected(owner)
    connection.data_received(INSERT)
    transport.close()
    owner.flush()
    assert not transport.writes


async def test_a_connection_too_many_is_told_so_and_closed() -> None:
    owner = StubOwner()
    owner.refusal = CallError("too many", "busy")
    connection, transport = connected(owner)
    connection.data_received(PING)
    assert transport.is_closed
    (answer,) = transport.writes
    assert b'"busy"' in answer


async def test_a_flooded_server_keeps_no_more_jobs_until_the_journal_has_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = StubOwner()
    monkeypatch.setattr("kqs.rpc.context.MAX_UNFLUSHED_BYTES", 10)
    peers = [connected(owner) for _ in range(2)]
    for connection, _ in peers:
        connection.data_received(INSERT * 2)
        connection.data_received(INSERT)
    assert [transport.is_read for _, transport in peers] == [False, False]
    for _ in range(100):
        owner.flush()
        await asyncio.sleep(0)  # a slice that took long, on a busy machine, goes on in another tick
    assert all(transport.is_read for _, transport in peers)
    assert [b"".join(transport.writes).count(b'"end"') for _, transport in peers] == [3, 3]


async def test_a_flooded_server_still_answers_what_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = StubOwner()
    (inserting, _), (pinging, pinged) = connected(owner), connected(owner)
    monkeypatch.setattr("kqs.rpc.context.MAX_UNFLUSHED_BYTES", 10)
    inserting.data_received(INSERT)
    pinging.data_received(PING)
    assert pinged.writes == [PONG]
    assert pinged.is_read


async def test_who_speaks_http_is_closed_unheard() -> None:
    owner = StubOwner()
    connection, transport = connected(owner)
    connection.data_received(b"POST / HTTP/1.1\r\n\r\n" + PING)
    assert transport.is_closed
    assert not transport.writes
    assert owner.foreign == [connection]
