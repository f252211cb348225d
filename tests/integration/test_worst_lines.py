"""What a line can cost the others, and what numbers without bounds did: against a real server."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from kqs.config import JournalSection
from kqs.journal import Journal, Kind, Record
from kqs.service import SystemClock
from tests.support.asking import RefusedError, ask, eventually
from tests.support.cores import Wait
from tests.support.journal import all_settled
from tests.support.serving import Served, serving

LINE_BYTES = 16 * 1024 * 1024 - 100
#: a pass of native code over such a line takes up to 50 ms on an idle machine; a loop of ours over it took seconds
WAIT_S = 0.5
MEMORY_BYTES = 128 * 1024 * 1024


def filled(begin: bytes, unit: bytes, end: bytes) -> bytes:
    return begin + unit * ((LINE_BYTES - len(begin) - len(end)) // len(unit)) + end


JOB = b'{"n":"insert","m":{"type":"nobody","delay":9,"data":'
WORST = {
    "numbers": (filled(b"[", b"1,", b"1]"), "too_large"),
    "hidden key": (filled(b'{"n":"echo","m":["\\u0061",', b"1,", b"1]}"), None),
    "auth": (filled(b'{"n":"insert","m":{"auth":1,"type":"nobody","data":[', b"1,", b"1]}}"), None),
    "a million jobs": (filled(b'{"n":"insert","m":[', b'{"type":"a"},', b'{"type":"a"}]}'), "too_large"),
    "a million keys": (b'{"n":"echo"' + b"".join(b',"k%d":1' % number for number in range(1_200_000)) + b"}", "bad_call"),
    "escapes": (filled(JOB + b'"', rb"\ud83d\ude00", b'"}}'), None),
    "too deep": (b"[" * LINE_BYTES, "bad_json"),
    "reports": (filled(b'{"n":"finish","m":[', b"1,", b"1]}"), "too_large"),
    "fields of a report": (filled(b'{"n":"touch","m":{"run":"x"', b',"progress":1', b"}}"), None),
    "parents": (filled(b'{"n":"insert","m":{"type":"nobody","after":[', b"1,", b"1]}}"), "bad_job"),
    "copies": (filled(b'{"n":"adopt","m":{"type":"nobody","copies":{"a":"b"', b',"a":"b"', b"}}}"), "bad_job"),
    "a batch of a million keys": (
        b'{"n":"batch","m":{"k":1%b}}' % b"".join(b',"k%d":1' % n for n in range(900_000)),
        "bad_call",
    ),
    "an argument": (filled(b'{"n":"job","m":{"id":[', b"1,", b"1]}}"), "bad_call"),
}


def memory_bytes(server: Served, name: str) -> int:
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def answer_to(server: Served, line: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as peer:
        peer.sendall(line + b"\n")
        peer.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: peer.recv(1 << 20), b""))


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize(("line", "code"), WORST.values(), ids=WORST.keys())
def test_no_line_makes_others_wait_or_fills_memory(tmp_path: Path, line: bytes, code: str | None) -> None:
    with serving(tmp_path) as server:
        server.ask('{"n":"ping"}')
        rest_bytes = memory_bytes(server, "VmRSS")
        answers: list[bytes] = []
        sender = threading.Thread(target=lambda: answers.append(answer_to(server, line)))
        waits = []
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as peer:
            sender.start()
            while sender.is_alive():
                wait = Wait(server.process.pid)
                peer.sendall(b'{"n":"ping"}\n')
                peer.recv(100)
                waits.append(wait.over_s())
        assert (f'"code":"{code}"'.encode() in answers[0]) == (code is not None)
        assert b"\n" in answers[0]
        assert max(waits) < WAIT_S
        assert memory_bytes(server, "VmHWM") - rest_bytes < MEMORY_BYTES


@pytest.mark.alone
@pytest.mark.slow
def test_refused_reports_leave_nothing_behind(tmp_path: Path) -> None:
    line = filled(b'{"n":"finish","m":{"run":"x","report":"ok","result":"', b"x", b'"}}')
    with serving(tmp_path) as server:
        answer_to(server, line)
        rest_bytes = memory_bytes(server, "VmRSS")
        for _ in range(8):
            assert b'"code":"bad_call"' in answer_to(server, line)
        assert memory_bytes(server, "VmRSS") - rest_bytes < 4 * LINE_BYTES


@pytest.mark.parametrize(
    "field", ["time_limit", "expire", "keep", "delay", "ttr", "at", "retry_delay", "ghost_delay", "retries"]
)
def test_a_number_without_bounds_is_refused_and_the_server_lives(tmp_path: Path, field: str) -> None:
    with serving(tmp_path) as server:
        refusal, pong = server.ask(
            f'{{"id":1,"n":"insert","m":{{"type":"echo","auto_touch":true,"{field}":1e308}}}}', '{"n":"ping"}'
        )
        assert json.loads(refusal)["e"]["code"] == "bad_job"
        assert json.loads(refusal)["e"]["message"].startswith(f"{field}: expected ")
        assert "pong" in pong


def state_of(server: Served, job_id: str) -> str | None:
    try:
        state: str = ask(server, "job", job_id)["state"]
    except RefusedError:  # it is not fed yet
        return None
    return state


def test_a_journal_from_before_the_bounds_is_replayed_and_its_jobs_run(tmp_path: Path) -> None:
    options = b'"auto_touch":true,"time_limit":1e308,"expire":1e308,"keep":1e308'
    lines = b'{"n":"insert","m":{"type":"echo","id":"line",%b}}\n{"n":"insert","m":{"type":"echo","id":"plain"}}\n' % options
    array = b'[{"type":"echo","id":"array",%b},{"type":"echo","id":"other"}]' % options

    async def journal_them() -> None:
        journal = Journal(JournalSection(dir=tmp_path / "journal", min_free_bytes=0), SystemClock())
        await journal.start()
        first = int(time.time() * 1e6)
        journal.append(Record(Kind.CALLS, 2, first, lines))
        journal.append(Record(Kind.JOBS, 2, first + 2, array))
        await all_settled(journal)
        await journal.stop()

    asyncio.run(journal_them())
    for _ in range(2):
        with serving(tmp_path) as server:
            for job_id in ("line", "plain", "array", "other"):
                eventually(partial(state_of, server, job_id), lambda state: state == "success")
            assert ask(server, "job", "line")["options"]["time_limit"] == 1e10
            assert server.stop() == 0
