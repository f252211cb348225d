"""Where the server listens, and what it refuses to listen on."""

from __future__ import annotations

import asyncio
import grp
import os
import resource
import socket
import stat
from collections.abc import AsyncIterator, Iterator, Sized
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from kqs.config import ServerSection
from kqs.errors import StartupError
from kqs.server.listener import Listener
from tests.support.supervising import StrictSupervisor
from tests.support.turning import until


class HangUp(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def a_listener(**settings: Any) -> Listener:
    return Listener(ServerSection(**({"port": 0} | settings)), StrictSupervisor())


@asynccontextmanager
async def listening(**settings: Any) -> AsyncIterator[Listener]:
    listener = a_listener(**settings)
    await listener.start(HangUp)
    try:
        yield listener
    finally:
        listener.close()


async def refusal(**settings: Any) -> StartupError:
    with pytest.raises(StartupError) as caught:
        await a_listener(**settings).start(HangUp)
    return caught.value


async def connects(path: Path) -> bool:
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    await reader.read()
    writer.close()
    await writer.wait_closed()
    return True


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


async def test_localhost_is_both_families_on_one_port() -> None:
    async with listening(host="localhost") as listener:
        hosts, ports = zip(*listener.addresses, strict=True)
        assert hosts == ("127.0.0.1", "::1") if has_ipv6() else ("127.0.0.1",)
        assert len(set(ports)) == 1


async def test_a_busy_port_is_exit_69() -> None:
    async with listening(host="127.0.0.1") as listener:
        port = listener.addresses[0][1]
        error = await refusal(host="127.0.0.1", port=port)
    assert error.exit_code == 69
    assert str(port) in str(error)


async def test_a_closed_listener_frees_its_port() -> None:
    async with listening(host="127.0.0.1") as listener:
        port = listener.addresses[0][1]
    async with listening(host="127.0.0.1", port=port) as again:
        assert again.addresses == [("127.0.0.1", port)]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
async def test_a_public_host_is_exit_78_unless_allowed(host: str) -> None:
    error = await refusal(host=host)
    assert error.exit_code == 78
    assert "allow_public" in str(error)


async def test_a_public_host_may_be_allowed() -> None:
    async with listening(host="0.0.0.0", allow_public=True) as listener:
        assert listener.addresses[0][0] == "0.0.0.0"


async def test_a_host_that_is_not_of_this_machine_is_exit_73() -> None:
    assert (await refusal(host="192.0.2.1", allow_public=True)).exit_code == 73


async def test_an_unknown_host_is_exit_78() -> None:
    assert (await refusal(host="no such host")).exit_code == 78


async def test_the_unix_socket_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "kqs.sock"
    async with listening(socket=str(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await connects(path)
    assert not path.exists()


async def test_the_unix_socket_is_for_whom_the_settings_say(tmp_path: Path) -> None:
    path, group = tmp_path / "kqs.sock", grp.getgrgid(os.getgid())
    async with listening(socket=str(path), socket_mode="0660", socket_group=group.gr_name):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert path.stat().st_gid == group.gr_gid


async def test_an_unknown_group_is_exit_78(tmp_path: Path) -> None:
    error = await refusal(socket=str(tmp_path / "kqs.sock"), socket_group="no such group")
    assert error.exit_code == 78
    assert not (tmp_path / "kqs.sock").exists()


async def test_who_is_to_be_turned_away_waits_when_no_more_may_be_open() -> None:
    open_count = most = 0

    class Counted(HangUp):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            nonlocal open_count, most
            open_count += 1
            most = max(most, open_count)
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            nonlocal open_count
            open_count -= 1

    listener = a_listener(host="127.0.0.1")
    await listener.start(Counted, lambda: 5 - open_count)
    try:
        crowd = [await asyncio.open_connection(*listener.addresses[0]) for _ in range(50)]
        assert [await reader.read() for reader, _ in crowd] == [b""] * 50
        for _, writer in crowd:
            writer.close()
    finally:
        listener.close()
    assert 1 <= most <= 5


async def test_without_a_host_there_is_only_the_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "kqs.sock"
    async with listening(host="", socket=str(path)) as listener:
        assert listener.addresses == []
        assert await connects(path)


async def test_nothing_to_listen_on_is_exit_78() -> None:
    assert (await refusal(host="")).exit_code == 78


async def test_a_stale_unix_socket_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "kqs.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with listening(socket=str(path)):
        assert await connects(path)


async def test_a_unix_socket_that_answers_is_exit_69_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "kqs.sock"
    async with listening(socket=str(path)):
        assert (await refusal(socket=str(path))).exit_code == 69
        assert await connects(path)


async def test_a_file_in_the_place_of_the_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    assert (await refusal(socket=str(path))).exit_code == 73
    assert path.read_text() == "data"


async def test_a_socket_in_a_missing_folder_is_exit_73_and_frees_the_port(tmp_path: Path) -> None:
    listener = a_listener(host="127.0.0.1", socket=str(tmp_path / "missing" / "kqs.sock"))
    with pytest.raises(StartupError) as caught:
        await listener.start(HangUp)
    assert caught.value.exit_code == 73
    async with listening(host="127.0.0.1", port=listener.addresses[0][1]):
        pass


async def test_another_servers_socket_is_not_unlinked(tmp_path: Path) -> None:
    path = tmp_path / "kqs.sock"
    async with listening(socket=str(path)):
        path.unlink()
        path.write_text("not ours")
    assert path.read_text() == "not ours"


async def test_who_connects_to_a_bound_listener_waits_until_it_starts() -> None:
    listener = a_listener(host="127.0.0.1")
    await listener.bind()
    reader, writer = await asyncio.open_connection(*listener.addresses[0])
    await listener.start(HangUp)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    listener.close()


async def test_a_bound_listener_that_never_starts_frees_its_port() -> None:
    listener = a_listener(host="127.0.0.1")
    await listener.bind()
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*listener.addresses[0])


async def test_without_open_files_it_accepts_later_and_says_both(monkeypatch: pytest.MonkeyPatch) -> None:
    tries, accept = [], Listener._accept

    def noted(listener: Listener, bound: socket.socket) -> None:
        tries.append(bound)
        accept(listener, bound)

    monkeypatch.setattr(Listener, "_accept", noted)
    with capture_logs() as logs:
        async with listening(host="127.0.0.1") as listener:
            await _without_files_for_a_while(listener, tries)
    assert [log["event"] for log in logs] == [
        "connections cannot be accepted, trying again and again",
        "connections are accepted again",
    ]


async def _without_files_for_a_while(listener: Listener, tries: Sized) -> None:
    with socket.socket() as peer, no_more_files():
        peer.setblocking(False)
        await asyncio.get_running_loop().sock_connect(peer, listener.addresses[0])
        await until(lambda: len(tries) > 2)
    reader, writer = await asyncio.open_connection(*listener.addresses[0])
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


@contextmanager
def no_more_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_thousand_who_knock_at_once_are_all_let_in() -> None:
    async with listening(host="127.0.0.1") as listener:
        peers = [socket.create_connection(listener.addresses[0]) for _ in range(1000)]
        loop = asyncio.get_running_loop()
        for peer in peers:
            peer.setblocking(False)
            assert await loop.sock_recv(peer, 1) == b""
            peer.close()
