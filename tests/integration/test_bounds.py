"""What connections may hold of a real server: its memory, its files, its places, whoever asks for too much of them."""

from __future__ import annotations

import grp
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.asking import until_said
from tests.support.memory import MIB, resident_bytes
from tests.support.serving import SERVE, SERVE_ENVIRON, Served, serving

PING = b'{"n":"ping"}\n'
KQS = (sys.executable, "-m", "kqs")
BIG_BYTES = 8_000_000
BIG = b'{"n":"insert","m":{"type":"big","id":"big","delay":3600,"data":"%b"}}\n' % (b"x" * BIG_BYTES)
ASK_BIG = b'{"n":"job","m":"big"}\n'


class Peer:
    """A client of few words."""

    def __init__(self, served: Served | Path) -> None:
        if isinstance(served, Path):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(30)
            self.socket.connect(str(served))
        else:
            self.socket = socket.create_connection(("127.0.0.1", served.port), timeout=30)
        self._lines = self.socket.makefile("rb")

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._lines.close()
        self.socket.close()

    def ask(self, line: bytes) -> Any:
        self.socket.sendall(line)
        return self.hear()

    def hear(self) -> Any:
        line = self._lines.readline()
        return msgspec.json.decode(line) if line else None


def stats(served: Served) -> dict[str, int]:
    with Peer(served) as peer:
        found: dict[str, int] = peer.ask(b'{"n":"stats"}\n')["m"]
        return found


@contextmanager
def peers(served: Served, count: int) -> Iterator[list[Peer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Peer(served)) for _ in range(count)]


HTTP = [
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\r\n",
    b"\r\n\r\nPUT /x HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\n",
]


def test_what_a_web_page_can_send_is_not_heard(tmp_path: Path) -> None:
    body = b'{"n":"insert","m":{"type":"x","id":"smuggled"}}\n{"n":"quit"}\n'
    with serving(tmp_path) as served:
        for head in HTTP:
            with Peer(served) as page:
                first, rest = head[:7], head[7:]
                page.socket.sendall(first)
                with suppress(ConnectionError):
                    page.socket.sendall(rest + body)
                    assert page.socket.recv(1) == b""
        found = stats(served)
        assert found["connections_foreign"] == len(HTTP)
        assert found["calls"] == 1
        until_said(served, "was closed unheard")
        assert served.log.read_text().count("was closed unheard") == 1


def test_who_takes_none_of_its_answers_has_no_more_made(tmp_path: Path) -> None:
    with serving(tmp_path) as served, Peer(served) as good:
        assert good.ask(BIG)["m"] == "big"
        with peers(served, 3) as deaf:
            for peer in deaf:
                peer.socket.sendall(ASK_BIG * 300)
            for _ in range(10):
                assert len(good.ask(ASK_BIG)["m"]["data"]) == BIG_BYTES
            assert resident_bytes(served.process.pid, most=True) < 350 * MIB


def test_who_takes_its_answers_slowly_gets_them_whole(tmp_path: Path) -> None:
    with serving(tmp_path) as served, Peer(served) as slow:
        slow.ask(BIG)
        slow.socket.sendall(ASK_BIG * 20 + b'{"id":"last","n":"ping"}\n')
        answers = [slow.hear() for _ in range(21)]
        assert [len(answer["m"]["data"]) for answer in answers if "id" not in answer] == [BIG_BYTES] * 20
        assert [answer["m"] for answer in answers if "id" in answer] == ["pong"]


WORST_ASKED = {
    "help": b'{"n":"help"}\n' * 100_000,
    "echo": b'{"n":"echo","m":"%b"}\n' % (b"x" * 4_000_000) * 4,
    "blobs": b'{"n":"echo","b":"%b"}\n' % (b"QUFB" * 1_000_000) * 4,
    "errors": b"?\n" * 500_000,
    "unknown": b'{"n":"%b"}\n' % (b"x" * 100) * 50_000,
    "batches": (b"[" + b",".join([b'{"jsonrpc":"2.0","id":1,"method":"help"}'] * 5000) + b"]\n") * 5,
    "stats": b'{"n":"stats"}\n' * 100_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("asked", WORST_ASKED)
def test_a_crowd_that_takes_nothing_costs_no_more_than_is_documented(asked: str, tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        before = resident_bytes(served.process.pid)
        with peers(served, 60) as crowd:
            pour_all(crowd, WORST_ASKED[asked])
            with Peer(served) as good:
                assert good.ask(PING)["m"] == "pong"
            taken = resident_bytes(served.process.pid, most=True) - before
            assert taken < 250 * MIB, taken // MIB


def pour_all(crowd: Sequence[Peer], data: bytes) -> None:
    """Send `data` from each of `crowd`, as far as the server takes it within a few seconds."""

    def pour(peer: Peer) -> None:
        peer.socket.settimeout(2)
        with suppress(OSError):  # the server reads no more, or has cut us off
            peer.socket.sendall(data)

    threads = [threading.Thread(target=pour, args=(peer,)) for peer in crowd]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.slow
def test_unfinished_lines_take_no_more_than_is_documented(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        before = resident_bytes(served.process.pid)
        with ExitStack() as stack:
            for _ in range(2000):
                peer = stack.enter_context(Peer(served))
                peer.socket.sendall(b'{"n":"echo","m":"' + b"x" * 250_000)
            with Peer(served) as good:
                long = b'{"n":"echo","m":"' + b"x" * 2_000_000 + b'"}\n'
                assert len(good.ask(long)["m"]) == 2_000_000
                held = stats(served)
            assert held["connections"] < 400
            taken = resident_bytes(served.process.pid, most=True) - before
            assert taken < 64 * MIB * 2, taken // MIB


@pytest.mark.slow
def test_who_sends_a_long_line_slowly_is_heard_among_those_who_leave_theirs_lying(tmp_path: Path) -> None:
    with serving(tmp_path) as served, ExitStack() as stack:
        slow = stack.enter_context(Peer(served))
        slow.socket.sendall(b'{"n":"echo","m":"')
        for _ in range(20):
            slow.socket.sendall(b"x" * 20_000)
            for _ in range(30):
                stack.enter_context(Peer(served)).socket.sendall(b"y" * 200_000)
        assert len(slow.ask(b'"}\n')["m"]) == 400_000
        assert stats(served)["errors_busy"] > 200


def test_a_batch_whose_answers_are_too_long_is_refused_in_part(tmp_path: Path) -> None:
    with serving(tmp_path, SERVER__MAX_LINE_BYTES="100000") as served, Peer(served) as peer:
        member = '{"jsonrpc":"2.0","id":%d,"method":"help"}'
        line = "[" + ",".join(member % n for n in range(1000)) + "]\n"
        answers = peer.ask(line.encode())
        refused = [answer["error"]["data"]["code"] for answer in answers if "error" in answer]
        assert len(answers) == 1000
        assert refused == ["too_large"] * len(refused)
        assert 0 < len(refused) < 1000
        assert peer.ask(PING)["m"] == "pong"


def test_a_server_with_all_places_and_files_taken_can_be_looked_after(tmp_path: Path) -> None:
    path = tmp_path / "kqs.sock"
    few_files = ("sh", "-c", 'ulimit -n 256 && exec "$@"', "sh", *SERVE)
    with serving(tmp_path, few_files, SERVER__SOCKET=str(path), JOURNAL__SEGMENT_BYTES="4096") as served, ExitStack() as stack:
        until_said(served, "fewer connections than max_connections")
        good = stack.enter_context(Peer(served))
        for _ in range(300):
            stack.enter_context(Peer(served))
        for n in range(30):  # each a new segment
            line = b'{"n":"insert","m":{"type":"x","id":"%d","delay":3600,"data":"%b"}}\n' % (n, b"x" * 4096)
            assert good.ask(line)["m"] == str(n)
        assert stats(served)["connections"] > 30
        for address in (f"127.0.0.1:{served.port}", f"unix:{path}"):
            shown = subprocess.run((*KQS, "stats", "--server", address), capture_output=True, env=SERVE_ENVIRON, check=True)
            assert b"connections_refused" in shown.stdout
            refused = subprocess.run(
                (*KQS, "insert", "x", "--server", address), capture_output=True, env=SERVE_ENVIRON, check=False
            )
            assert b"too many connections" in refused.stderr
        subprocess.run((*KQS, "call", "quit", "--server", f"unix:{path}"), env=SERVE_ENVIRON, check=True, capture_output=True)
        assert served.process.wait(30) == 0
        assert not path.exists()


def test_a_server_may_listen_on_its_unix_socket_alone(tmp_path: Path) -> None:
    path = tmp_path / "kqs.sock"
    mine = os.getgrouplist(os.environ.get("USER", "root"), os.getgid())[0]
    group = grp.getgrgid(mine).gr_name
    settings = {"SERVER__HOST": "", "SERVER__SOCKET": str(path), "SERVER__SOCKET_MODE": "0660", "SERVER__SOCKET_GROUP": group}
    with serving(tmp_path, **settings) as served:
        with Peer(path) as peer:
            assert peer.ask(PING)["m"] == "pong"
        with pytest.raises(ConnectionRefusedError):
            Peer(served)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert path.stat().st_gid == mine
        until_said(served, f"listening socket={path}")
