"""What happens to jobs, told by real servers."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from tests.support.asking import ask, eventually
from tests.support.serving import Served, serving


class Listener:
    """A connection with one `events` call."""

    def __init__(self, server: Served, argument: object = None, *, receive_bytes: int = 0) -> None:
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(30)
        self.socket.connect(("127.0.0.1", server.port))
        self.lines = self.socket.makefile("rb")
        self.socket.sendall(json.dumps({"id": 1, "n": "events", "m": argument}).encode() + b'\n{"n":"ping"}\n')
        assert b"pong" in self.lines.readline()

    def next(self) -> Any:
        answer = json.loads(self.lines.readline())
        assert answer["s"] == "ok"
        return answer["m"]

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


def test_every_event_of_many_jobs_is_told_to_ten_readers(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        readers = [Listener(server, {"types": ["echo"]}) for _ in range(10)]
        ids = ask(server, "insert", [{"type": "echo", "data": number} for number in range(1000)])
        for reader in readers:
            heard: dict[str, list[str]] = {job_id: [] for job_id in ids}
            for _ in range(4000):
                event = reader.next()
                heard[event["id"]].append(event["event"])
            assert {tuple(words) for words in heard.values()} == {("created", "queued", "started", "success")}
            reader.close()


def test_a_slow_reader_is_told_how_many_it_missed(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        slow = Listener(server, {"types": ["echo"]}, receive_bytes=4096)
        count = 0
        for _ in range(8):
            ids = ask(server, "insert", [{"type": "echo", "data": "x" * 900} for _ in range(1000)])
            eventually(lambda last=ids[-1]: ask(server, "job", last)["state"], lambda state: state == "success")
            count += 4000
        heard = skipped = 0
        while heard + skipped < count:
            event = slow.next()
            heard += "event" in event
            skipped += event.get("skipped", 0)
        assert heard + skipped == count
        assert skipped > 0
        slow.close()
        eventually(lambda: ask(server, "stats")["connections"], lambda open_: open_ == 1)


def test_a_stop_ends_the_call(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        listener = Listener(server)
        server.process.terminate()
        assert json.loads(listener.lines.readline()) == {"v": 1, "id": 1, "e": None, "s": "end", "m": None}
        assert listener.lines.readline() == b""
        listener.close()
        assert server.process.wait(30) == 0
