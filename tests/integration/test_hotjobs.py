"""Jobs whose end is waited for, over real servers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kqs.client import Client, connect
from kqs.errors import CallError
from tests.support.asking import RefusedError, ask, eventually, peer_of
from tests.support.memory import MIB, resident_bytes
from tests.support.serving import ROOT, SERVE_ENVIRON, Served, free_port, serving


def hot(number: int, type_: str = "echo", **fields: object) -> bytes:
    job = {"type": type_, "data": number, "wait": 20} | fields
    return json.dumps({"id": number, "n": "insert", "m": job}).encode() + b"\n"


def all_answers(server: Served, *lines: bytes) -> list[dict[str, Any]]:
    """All that is answered before the server closes a connection on which these were sent, and the end of input."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as peer:
        peer.sendall(b"".join(lines))
        peer.shutdown(socket.SHUT_WR)
        return [json.loads(line) for line in b"".join(iter(lambda: peer.recv(65536), b"")).splitlines()]


def later(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def waits(server: Served) -> int:
    """How many errors of time-outs the server has answered."""
    return int(ask(server, "stats").get("errors_timeout", 0))


def test_a_thousand_are_answered_after_the_end_of_input(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        answers = all_answers(server, *(hot(number) for number in range(1000)))
    ids = {answer["id"]: answer["m"] for answer in answers if answer["s"] == "ok"}
    ends = {answer["id"]: answer["m"] for answer in answers if answer["s"] == "end"}
    assert len(ids) == len(ends) == 1000
    assert ends == {number: {"id": ids[number], "state": "success", "result": number} for number in range(1000)}


def test_a_known_job_is_waited_for_and_one_that_has_ended_is_answered_at_once(tmp_path: Path) -> None:
    with serving(tmp_path) as server, peer_of(server) as worker:
        ends: list[Any] = []
        waiting = later(lambda: ends.append(all_answers(server, hot(1, "mail", id="m"), hot(2, "mail", id="m"))))
        (run,) = worker.call("reserve", {"types": ["mail"], "wait": 20})
        worker.call("finish", {"run": run["run"], "report": "fail", "reason": "no such address", "final": True})
        waiting.join()
        ends.append(all_answers(server, hot(3, "mail", id="m")))
    for said in ends:
        told = [answer["e"] for answer in said if answer["s"] == "err"]
        assert {(error["code"], error["message"]) for error in told} == {("job_failed", "no such address")}
    assert [len(said) for said in ends] == [4, 2]


def test_a_result_that_is_not_kept_is_told_all_the_same(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        *_, end = all_answers(server, hot(1, keep=0))
        assert end["m"]["result"] == 1
        assert all_answers(server, hot(2, "nobody", keep=0, expire=0.1))[-1]["e"]["message"] == "expired"


@pytest.mark.parametrize("shape", [{}, {"id": "mine"}, {"unique": "k"}, {"unique": "k", "on_conflict": "refuse"}])
def test_a_job_whose_insert_tells_what_it_made_is_waited_for(tmp_path: Path, shape: dict[str, str]) -> None:
    with serving(tmp_path) as server, peer_of(server) as worker:
        said: list[dict[str, Any]] = []
        waiting = later(lambda: said.extend(all_answers(server, hot(1, "mail", answer="full", keep=0, **shape))))
        (run,) = worker.call("reserve", {"types": ["mail"], "wait": 20})
        worker.call("finish", {"run": run["run"], "report": "ok", "result": 7})
        waiting.join()
    assert [answer["m"] for answer in said] == [
        {"id": run["id"], "created": True},
        {"id": run["id"], "state": "success", "result": 7},
    ]


def test_a_thousand_that_tell_what_they_made_are_answered(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        answers = all_answers(server, *(hot(number, answer="full", keep=number % 2) for number in range(1000)))
    ends: dict[int, dict[str, Any]] = {
        answer["id"]: answer.get("m") or answer["e"] for answer in answers if answer["s"] != "ok"
    }
    assert {number: end.get("result") for number, end in ends.items()} == {number: number for number in range(1000)}


def test_who_is_joined_to_a_job_waits_for_its_end(tmp_path: Path) -> None:
    with serving(tmp_path) as server, peer_of(server) as worker:
        first = ask(server, "insert", {"type": "mail", "unique": "k"})
        said: list[dict[str, Any]] = []
        joining = (hot(1, "mail", unique="k", id="mine"), hot(2, "mail", unique="k", on_conflict="refuse"))
        waiting = later(lambda: said.extend(all_answers(server, *joining)))
        eventually(lambda: ask(server, "stats").get("errors_duplicate"), lambda count: count == 1)
        (run,) = worker.call("reserve", {"types": ["mail"], "wait": 20})
        worker.call("finish", {"run": run["run"], "report": "ok", "result": 7})
        waiting.join()
    assert [answer["m"] for answer in said if answer["id"] == 1] == [
        first,
        {"id": first, "state": "success", "result": 7},
    ]


def test_many_who_wait_for_one_long_result_and_do_not_read_fill_no_memory(tmp_path: Path) -> None:
    calls = b"".join(hot(number, id="long") for number in range(1, 41))
    with serving(tmp_path) as server, ExitStack() as peers:
        ask(server, "suspend", {"type": "echo"})
        ask(server, "insert", {"type": "echo", "id": "long", "data": "x" * MIB})
        for _ in range(10):
            peer = peers.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            peer.sendall(calls)
            said = b""
            while said.count(b"\n") < 40:
                said += peer.recv(65536)
        rest_bytes = resident_bytes(server.process.pid)
        ask(server, "resume", {"type": "echo"})
        eventually(lambda: ask(server, "stats")["connections"], lambda count: count == 1, within_s=60)
        assert resident_bytes(server.process.pid, most=True) - rest_bytes < 200 * MIB


def test_a_retry_is_no_end(tmp_path: Path) -> None:
    with serving(tmp_path) as server, peer_of(server) as worker, peer_of(server) as client:
        client.send("insert", {"type": "mail", "wait": 20, "retry_delay": 0})
        client.receive()
        for report in ("fail", "again", "ok"):
            (run,) = worker.call("reserve", {"types": ["mail"], "wait": 20})
            worker.call("finish", {"run": run["run"], "report": report} | ({"reason": "x"} if report == "fail" else {}))
        assert client.receive()["state"] == "success"


def test_a_job_that_expires_in_line_is_told(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert all_answers(server, hot(1, "nobody", expire=0.1))[-1]["e"]["message"] == "expired"


def test_a_call_of_job_waits_for_the_end_of_one_that_leaves_no_record(tmp_path: Path) -> None:
    with serving(tmp_path) as server, peer_of(server) as worker, peer_of(server) as client:
        job_id = client.insert("mail", keep=0)
        client.send("job", {"id": job_id, "wait": 20})
        (run,) = worker.call("reserve", {"types": ["mail"], "wait": 20})
        worker.call("finish", {"run": run["run"], "report": "ok", "result": [1e300]})
        record = client.receive()
    assert (record["id"], record["state"], record["result"]) == (job_id, "success", [1e300])
    assert (record["type"], record["attempt"]) == ("mail", 1)


def test_a_type_has_a_default_and_the_store_is_told_of_none(tmp_path: Path) -> None:
    with serving(tmp_path, TYPES__ECHO__WAIT="20") as server:
        said = all_answers(server, b'{"id":1,"n":"insert","m":{"type":"echo","data":7}}\n')
        assert [answer["s"] for answer in said] == ["ok", "end"]
        assert "wait" not in ask(server, "job", said[0]["m"])["options"]


def test_a_stop_answers_draining_and_first_what_ends_in_its_grace(tmp_path: Path) -> None:
    with serving(tmp_path, WORKER__GRACE_S="20") as server, peer_of(server) as worker, peer_of(server) as client:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as closed, closed.makefile("rb") as lines:
            closed.sendall(hot(1, "nobody"))
            closed.shutdown(socket.SHUT_WR)
            assert b'"ok"' in lines.readline()
            client.send("insert", {"type": "mail", "wait": 20})
            client.receive()
            (run,) = worker.call("reserve", {"types": ["mail"], "wait": 20})
            server.process.send_signal(signal.SIGTERM)
            eventually(server.log.read_text, lambda said: "waiting for remote runs" in said)
            with pytest.raises(RefusedError, match="draining"):
                worker.call("insert", {"type": "mail", "wait": 1})
            worker.call("finish", {"run": run["run"], "report": "ok"})
            assert client.receive()["state"] == "success"
            assert json.loads(lines.readline())["e"]["code"] == "draining"
            assert lines.readline() == b""
        assert server.process.wait(30) == 0


def test_a_killed_server_ends_the_wait_and_the_next_one_tells_the_end_under_the_same_id(tmp_path: Path) -> None:
    with serving(tmp_path) as server, peer_of(server) as client:
        client.send("insert", {"type": "echo", "id": "mine", "delay": 3, "wait": 20, "data": 5})
        assert client.receive() == "mine"
        os.kill(server.process.pid, signal.SIGKILL)
        with pytest.raises((EOFError, ConnectionError)):
            client.receive()
    with serving(tmp_path) as server:
        assert all_answers(server, hot(1, id="mine"))[-1]["m"]["result"] == 5


@pytest.mark.parametrize("clients", [1, 3])
def test_each_end_that_was_told_is_there_after_a_kill(tmp_path: Path, clients: int) -> None:
    line = b'{"id":1,"n":"insert","m":{"type":"echo","data":7,"wait":20}}\n'
    told: list[str] = []

    def insert_one_by_one(server: Served) -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as peer, peer.makefile("rb") as lines:
            for _ in range(30):
                peer.sendall(line)
                job_id, end = json.loads(lines.readline())["m"], json.loads(lines.readline())["m"]
                assert end == {"id": job_id, "state": "success", "result": 7}
                told.append(job_id)

    with serving(tmp_path) as server:
        threads = [later(partial(insert_one_by_one, server)) for _ in range(clients)]
        for thread in threads:
            thread.join()
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(30)
    with serving(tmp_path) as server:
        assert len(told) == 30 * clients
        assert {ask(server, "job", job_id)["state"] for job_id in told} == {"success"}
        assert {len(ask(server, "job", job_id)["runs"]) for job_id in told} == {1}


def test_a_client_that_reset_its_connection_is_forgotten(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        peer = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        lines = peer.makefile("rb")
        peer.sendall(b"".join(hot(number, "nobody", wait=2) for number in range(100)))
        taken = in_vain = 0
        while taken < 100:
            line = json.loads(lines.readline())
            taken += line["s"] == "ok"
            in_vain += line["s"] == "err"  # on a busy machine the first have waited by then
        lines.close()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        (_, late) = all_answers(server, hot(1, "nobody", wait=2.5))
        assert late["e"]["code"] == "timeout"
        assert waits(server) == in_vain + 1


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_a_client_that_is_gone_after_its_end_of_input_is_forgotten(tmp_path: Path, family: str) -> None:
    path = str(tmp_path / "kqs.sock")
    with serving(tmp_path, SERVER__SOCKET=path) as server:
        peer = socket.socket(socket.AF_UNIX if family == "unix" else socket.AF_INET)
        peer.settimeout(30)
        peer.connect(path if family == "unix" else ("127.0.0.1", server.port))
        lines = peer.makefile("rb")
        job_id = ask(server, "insert", {"type": "nobody"})
        for_it = json.dumps({"id": "j", "n": "job", "m": {"id": job_id, "wait": 600}}).encode() + b"\n"
        standing = [{"n": "events"}, {"n": "reserve", "m": {"types": ["nobody else"], "wait": 600}}]
        peer.sendall(b"".join([for_it, *(json.dumps(call).encode() + b"\n" for call in standing)]))
        peer.sendall(b"".join(hot(number, "nobody", wait=600) for number in range(100)))
        for _ in range(100):
            while b'"s":"ok"' not in (line := lines.readline()) or b'"event"' in line:
                assert line
        eventually(lambda: ask(server, "stats")["connections"], lambda count: count == 2)  # one is that which asks
        peer.shutdown(socket.SHUT_WR)
        while b'"s":"end"' not in lines.readline():  # what stands ends with the input: the server has seen it
            pass
        eventually(lambda: ask(server, "stats")["connections"], lambda count: count == 2)
        lines.close()
        if family == "tcp":
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        eventually(lambda: ask(server, "stats")["connections"], lambda count: count == 1)


async def until(kqs: Client, call: str, is_right: Callable[[Any], bool]) -> Any:
    while not is_right(found := await kqs.call(call)):  # noqa: ASYNC110 - a server has no event for that
        await asyncio.sleep(0.01)
    return found


async def test_the_client_returns_the_ended_job(tmp_path: Path) -> None:
    with serving(tmp_path, TYPES__PING__WAIT="20") as server:
        async with connect("127.0.0.1", server.port, max_in_flight=1) as kqs:
            ended = await asyncio.gather(*(kqs.insert("echo", number, wait=20) for number in range(100)))
            assert [(one.state, one.result) for one in ended] == [("success", number) for number in range(100)]
            record = await kqs.wait_job(ended[0].id, 20)
            assert (record["id"], record["result"]) == (ended[0].id, 0)
            assert isinstance(await kqs.insert("ping", id="mine"), str)  # of a type that waits by default
            with pytest.raises(CallError) as refused:
                await kqs.insert("nobody", wait=0.05)
            assert refused.value.call_code == "timeout"
            with pytest.raises(ValueError, match="wait"):
                await kqs.insert("echo", wait=0)


async def test_the_client_waits_on_over_a_lost_connection(tmp_path: Path) -> None:
    port = free_port()
    async with asyncio.timeout(60):
        with serving(tmp_path, SERVER__PORT=str(port)) as server:
            kqs = connect("127.0.0.1", port)
            await kqs.open()
            waiting = asyncio.create_task(kqs.insert("echo", 7, delay=2, wait=30))
            found = await until(kqs, "jobs", bool)
            record = asyncio.create_task(kqs.wait_job(found[0]["id"], 30))
            os.kill(server.process.pid, signal.SIGKILL)
        with serving(tmp_path, SERVER__PORT=str(port)):
            assert (await waiting).result == 7
            assert (await record)["state"] == "success"
            await kqs.close()


async def test_a_cancelled_wait_is_withdrawn(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        async with connect("127.0.0.1", server.port) as kqs, asyncio.timeout(30):
            waiting = asyncio.create_task(kqs.insert("nobody", wait=600))
            await until(kqs, "jobs", bool)
            waiting.cancel()
            await asyncio.wait([waiting])
            await until(kqs, "stats", lambda stats: "calls_withdraw" in stats)
            assert waits(server) == 1


def kqs_command(server: Served, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kqs", *arguments, "--server", f"127.0.0.1:{server.port}"]
    return subprocess.run(command, cwd=ROOT, env=SERVE_ENVIRON, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_line_waits_and_tells_by_its_exit_code(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        done = kqs_command(server, "insert", "echo", "7", "--id", "mine", "--wait", "20", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == '{"id":"mine","state":"success","result":7}\n'
        shown = kqs_command(server, "insert", "echo", "7", "--wait", "20").stdout
        assert [line.split()[0] for line in shown.splitlines()] == ["id", "state", "result"]
        expired = kqs_command(server, "insert", "nobody", "--id", "x", "--expire", "0.1", "--wait", "20")
        assert (expired.returncode, expired.stderr) == (1, "kqs: job_failed: expired\n")
        late = kqs_command(server, "insert", "nobody", "--id", "late", "--wait", "0.1")
        assert (late.returncode, late.stderr) == (75, "kqs: timeout: the job has not ended in time; it goes on\n")
        assert kqs_command(server, "job", "late", "--wait", "0.1").returncode == 75
        assert json.loads(kqs_command(server, "job", "mine", "--wait", "20", "--json").stdout)["id"] == "mine"
        failed = kqs_command(server, "job", "x", "--wait", "20")
        assert failed.returncode == 1
        assert "expired" in failed.stdout
        assert kqs_command(server, "job", "x").returncode == 0
        assert kqs_command(server, "insert", "--file", "-", "--wait", "1").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "code"), [(("--wait", "0.1"), 75), (("--expire", "0.1", "--wait", "20"), 1)], ids=["late", "failed"]
)
def test_who_waited_without_an_id_can_ask_for_the_job(tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    with serving(tmp_path) as server:
        refused = kqs_command(server, "insert", "nobody", "--json", *arguments)
        assert (refused.returncode, refused.stdout) == (code, "")
        job_id = refused.stderr.split(": ")[2]
        assert json.loads(kqs_command(server, "job", job_id, "--json").stdout)["type"] == "nobody"
