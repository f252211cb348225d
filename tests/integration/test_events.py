"""What happens to jobs, told by real servers."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kqs.client import ConnectionLostError, connect
from tests.support.asking import ask, eventually, peer_of
from tests.support.serving import SERVE_ENVIRON, Served, free_port, serving


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


def test_jobs_with_a_resource_are_queued_behind_what_has_made_them_ready(tmp_path: Path) -> None:
    with serving(tmp_path) as server, peer_of(server) as worker:
        listener = Listener(server, {"types": ["stamp"]})
        ids = ask(server, "insert", [{"type": "stamp", "resource": f"r{number}"} for number in range(200)])
        runs = worker.call("reserve", {"types": ["stamp"], "count": 200, "wait": 10})
        worker.call("release", [{"run": run["run"]} for run in runs])
        heard: dict[str, list[str]] = {job_id: [] for job_id in ids}
        released = ["created", "queued", "started", "released", "queued"]
        for _ in range(2 * len(ids) + 3 * len(runs)):
            event = listener.next()
            heard[event["id"]].append(event["event"])
        assert all(words == released[: len(words)] for words in heard.values())
        assert [heard[run["id"]] for run in runs] == [released] * len(runs)
        listener.close()


def test_a_slow_reader_is_told_how_many_it_missed(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        slow = Listener(server, {"types": ["echo"]}, receive_bytes=4096)
        count = 0
        for _ in range(8):
            ids = ask(server, "insert", [{"type": "echo", "data": "x" * 900} for _ in range(1000)])
            eventually(partial(ask, server, "job", ids[-1]), lambda job: job["state"] == "success")
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


async def test_the_client_hears_them_until_the_server_stops(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        async with connect("127.0.0.1", server.port) as kqs, asyncio.timeout(60):
            async with kqs.events(["echo"], ["created", "success"]) as events:
                job_id = await kqs.insert("echo", 7)
                heard = [await anext(events), await anext(events)]
                assert [(event["event"], event["id"]) for event in heard] == [("created", job_id), ("success", job_id)]
                server.process.terminate()
                assert [event async for event in events] == []
            with pytest.raises(RuntimeError):
                await anext(events)


async def test_the_client_says_that_a_connection_was_lost_and_what_it_could_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kqs.client.events.MOST_KEPT", 10)
    with serving(tmp_path) as server:
        async with connect("127.0.0.1", server.port) as kqs, asyncio.timeout(60):
            with pytest.raises(ValueError, match="types"):
                kqs.events("echo")
            async with kqs.events(events=["created"]) as events:
                await kqs.insert_many([{"type": "nobody"}] * 100)
                heard = skipped = 0
                while heard + skipped < 100:
                    event = await anext(events)
                    heard += "event" in event
                    skipped += event.get("skipped", 0)
                assert skipped > 0
                server.process.kill()
                with pytest.raises(ConnectionLostError):
                    await anext(events)


def test_the_command_line_shows_them_and_follows_a_server_that_comes_back(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "kqs", "events", "--server", f"127.0.0.1:{port}", "--type", "echo"]

    def shown(*more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, *more], env=SERVE_ENVIRON, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def line(process: subprocess.Popen[str], said: str) -> str:
        assert process.stdout is not None
        return next(line for line in process.stdout if said in line)

    with ExitStack() as stack:
        with serving(tmp_path, SERVER__PORT=str(port)) as server:
            plain, following, as_json = (
                stack.enter_context(shown(*more))
                for more in ((), ("-f", "--event", "success"), ("--json", "--event", "success"))
            )
            stack.callback(following.kill)
            eventually(lambda: ask(server, "stats").get("calls_events", 0), lambda calls: calls == 3)
            job_id = ask(server, "insert", {"type": "echo", "data": "x"})
            assert f"created      {job_id}  echo" in line(plain, "created")
            assert f"success      {job_id}  echo  attempt 1" in line(following, "success")
            assert json.loads(line(as_json, "success"))["job"]["result"] == "x"
            assert server.stop() == 0
        assert plain.wait(30) == 0
        assert as_json.wait(30) == 0
        with serving(tmp_path, SERVER__PORT=str(port)) as server:
            eventually(lambda: ask(server, "stats").get("calls_events", 0), lambda calls: calls == 1)
            ask(server, "insert", {"type": "echo", "id": "again"})
            assert "again" in line(following, "success")


def test_the_command_line_tells_of_a_lost_server(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        command = [sys.executable, "-m", "kqs", "events", "--server", f"127.0.0.1:{server.port}"]
        with subprocess.Popen(command, env=SERVE_ENVIRON, stderr=subprocess.PIPE, text=True) as process:
            eventually(lambda: ask(server, "stats").get("calls_events", 0), lambda calls: calls == 1)
            server.process.kill()
            assert process.wait(30) == 69
