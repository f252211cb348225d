import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kqs.process.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A service manager's end: the bound socket, and what NOTIFY_SOCKET says of it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@kqs-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name.replace("@", "\0", 1))
        receiver.settimeout(5)
        yield receiver, name


def test_each_message_arrives_as_its_own_datagram(manager: tuple[socket.socket, str]) -> None:
    receiver, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    assert all([notifier.extend_timeout(1.5), notifier.ready(), notifier.watchdog(), notifier.stopping()])
    received = [receiver.recv(100) for _ in range(4)]
    assert received == [b"EXTEND_TIMEOUT_USEC=1500000", b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]


def test_a_manager_that_does_not_read_never_blocks_the_server(manager: tuple[socket.socket, str]) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager[1]})
    delivered = [notifier.watchdog() for _ in range(10_000)]
    assert delivered[0] is True
    assert delivered[-1] is False
