"""Whatever a peer sends or leaves out: an answer or a close, never a dead server, never an altered payload."""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kqs.rpc.context import READS_AT_ONCE
from kqs.server import draining
from kqs.wire.foreign import Greeting
from tests.support.serving import serving
from tests.support.talking import LOOPS, Talk, talking
from tests.support.turning import until

MAX_LINE_BYTES = 2 * 1024 * 1024
PING = b'{"id":"alive","n":"ping"}\n'
PONG = b'{"v":1,"id":"alive","e":null,"s":"end","m":"pong"}\n'

#: payloads that a JSON library may alter, refuse or choke on; each must come back, or out of the journal, as it went in
ODD_VALUES = [
    b"18446744073709551616", b"-9223372036854775809", b"1e400", b"1E+2", b"-0", b"-0.0", b"1.10", b"0.1e-400", b"9" * 5000,
    b'{"a":1,"a":2}', b'{"b" : 1 ,\t"a":[ ]}', b'"\\u0000\\u001f\\/\\ud83d\\ude00"', b'"\xf0\x9f\x98\x80\xc2\x85\xe2\x80\xa8"',
    b"[" * 60 + b"]" * 60, b'{"":{"":{}}}', b'"\\n"', b'{"$where":"1","a.b":0,"__proto__":{}}', b'"KQSJRNL"',
]  # fmt: skip

#: lines that are no JSON as KQS takes it
NO_JSON = [
    b"[" * 1024 * 1024, b'{"n":"echo","m":' * 10_000, b'{"n":"echo","m":"\xff"}', b'{"n":"echo","m":"\xc0\xaf"}',
    b'{"n":"echo","m":"\xed\xa0\x80"}', b'{"n":"echo","m":"\\ud800"}', b'{"n":"echo","m":"\\ude00\\ud800"}',
    b'{"n":"echo","m":NaN}', b'{"n":"echo","m":Infinity}', b'{"n":"echo","m":-Infinity}', b'{"n":"echo","m":01}',
    b'{"n":"echo","m":' + b"[" * 100 + b"]" * 100 + b"}", b'\xef\xbb\xbf{"n":"ping"}', '{"n":"ping"}'.encode("utf-16"),
    b'{"n":"echo","m":"\x00"}', b'{"n":"echo","m":\'x\'}', b'{"n":"echo","m":1,}', b'{"n":"echo"} {"n":"echo"}',
    b'{"n":"echo"', b'"', b"\\", b"\x00", b"\x16\x02", b"GET it",
]  # fmt: skip

#: JSON that is refused, with its code
REFUSED = [
    (b'{"n":"insert","m":{"type":"x","type":"y"}}', "bad_job"),
    (b'{"n":"insert","m":{"type":"x","id":"a","\\u0069d":"b"}}', "bad_job"),
    (b'{"n":"insert","m":{"type":"x\\u0000"}}', "bad_job"),
    (b'{"n":"insert","m":{"type":"x","prio":18446744073709551616}}', "bad_job"),
    (b'{"n":"insert","m":{"type":"x","delay":1e400}}', "bad_job"),
    (b'{"n":"insert","m":{"type":"x","id":"../../etc/passwd"}}', "bad_job"),
    (b'{"n":"insert","m":' + b"[" * 50 + b"]" * 50 + b"}", "bad_job"),
    (b'{"n":"insert","n":"ping"}', "bad_call"),
    (b'{"id":[1],"n":"ping"}', "bad_call"),
    (b'{"id":"' + b"x" * 1000 + b'","n":"ping"}', "bad_call"),
    (b'{"n":"' + b"x" * 1_000_000 + b'"}', "unknown_call"),
    (b'{"n":"jobs","m":{"limit":18446744073709551616}}', "bad_call"),
    (b'{"n":"jobs","m":{"limit":1e400}}', "bad_call"),
    (b'{"n":"echo","b":"not base64!"}', "bad_call"),
]


@pytest.fixture(scope="module", params=LOOPS)
def talk(request: pytest.FixtureRequest) -> Iterator[Talk]:
    with talking(request.param, max_line_bytes=MAX_LINE_BYTES) as server:
        yield server


def codes(replies: bytes) -> list[str]:
    """The codes of qrpc and JSON-RPC answers, `ok` for those that are no errors."""
    found = []
    for line in replies.splitlines():
        answers = msgspec.json.decode(line)
        for answer in answers if isinstance(answers, list) else [answers]:
            fault = answer.get("e") or answer.get("error", {}).get("data")
            found.append(fault["code"] if fault else "ok")
    return found


@pytest.mark.parametrize("line", NO_JSON, ids=lambda line: repr(line[:40]))
def test_no_json_is_refused_and_the_connection_lives_on(talk: Talk, line: bytes) -> None:
    assert codes(talk.ask(line + b"\n" + PING)) in (["bad_json", "ok"], ["bad_call", "ok"])


@pytest.mark.parametrize(("line", "code"), REFUSED, ids=lambda part: repr(part[:60]))
def test_what_is_refused_has_its_code_and_a_short_message(talk: Talk, line: bytes, code: str) -> None:
    replies = talk.ask(line + b"\n" + PING)
    assert sorted(codes(replies)) == sorted([code, "ok"])
    assert len(replies) < 1000


@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: repr(value[:40]))
def test_odd_values_are_echoed_and_journaled_as_they_came(talk: Talk, value: bytes) -> None:
    kept = talk.backend.journal.records
    kept.clear()
    call = b'{"n":"insert","m":{"type":"x","data":%b}}\n' % value
    replies = talk.ask(b'{"n":"echo","m":%b}\n' % value, call, b"# a line that makes the next chunk mixed\n" + call)
    assert b'"m":%b}\n' % value in replies
    assert [bytes(job.data) for record in kept for job in record.jobs or []] == [value, value]
    assert all(value in record.payload for record in kept)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
@example(data=b"\n" * 300)
@example(data=b"\r\n\r\r\n")
def test_any_bytes_leave_a_server_that_answers(talk: Talk, data: bytes) -> None:
    is_foreign = Greeting().is_foreign(data + b"\n")
    assert talk.ask(data + b"\n" + PING).endswith(b"" if is_foreign else PONG)


FRAGMENTS = [
    b'{"n":"insert","m":', b'{"type":"x"', b'"data":', b"}", b"]", b"[", b"{", b'"', b":", b",", b"\n", b"\\", b"\\ud800", b" ",
    b'"jsonrpc":"2.0"', b'"method":"echo"', b'"params":', b'"id":1', b"1e9", b"\xff", b"null", b'"b":"aGk="', b'"n":', b'"m":',
]  # fmt: skip


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.lists(st.sampled_from(FRAGMENTS), max_size=30).map(b"".join))
def test_any_near_json_leaves_a_server_that_answers(talk: Talk, data: bytes) -> None:
    assert talk.ask(data + b"\n" + PING).rstrip(b"\n").endswith(PONG.rstrip(b"\n"))


def test_a_line_at_the_limit_passes_and_one_byte_more_does_not(talk: Talk) -> None:
    around = len(b'{"n":"echo","m":""}')
    fits = b'{"n":"echo","m":"%b"}\n' % (b"x" * (MAX_LINE_BYTES - around))
    assert codes(talk.ask(fits)) == ["ok"]
    assert codes(talk.ask(fits.replace(b'""', b'"x"').replace(b"xx", b"xxx", 1), PING)) == ["too_large", "ok"]


def test_a_flood_without_a_newline_costs_one_error_and_no_memory(talk: Talk) -> None:
    assert codes(talk.ask(*[b"x" * 1024 * 1024] * 20, b"\n", PING)) == ["too_large", "ok"]


def test_half_a_line_at_the_end_of_input_is_no_call(talk: Talk) -> None:
    before = len(talk.backend.journal.records)
    assert talk.ask(b'{"n":"insert","m":{"type":"x"}}') == b""
    assert len(talk.backend.journal.records) == before


def test_a_transcript_cut_anywhere_is_answered_the_same(talk: Talk) -> None:
    transcript = b'{"id":1,"n":"echo","m":[1.0]}\n{"id":2,"n":"insert","m":{"type":"x","id":"a"}}\r\n?\n' + PING
    whole = sorted(talk.ask(transcript).splitlines())
    for at in range(1, len(transcript)):
        assert sorted(talk.ask(transcript[:at], transcript[at:]).splitlines()) == whole, at


async def until_open(talk: Talk, count: int) -> None:
    await until(lambda: talk.server.context.counters.connections_open == count)


async def until_wanted(talk: Talk, count: int) -> None:
    await until(lambda: len(talk.server.context.tasks) == count)


def test_a_thousand_silent_connections_cost_no_task_and_no_answer(talk: Talk) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2500:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    silent: list[socket.socket] = []
    try:
        while len(silent) < 1000:  # the backlog takes no thousand at once
            silent += [socket.create_connection(talk.server.addresses[0]) for _ in range(200)]
            talk.run(until_open(talk, len(silent)))
        assert talk.ask(PING) == PONG
        assert not talk.server.context.tasks
    finally:
        for peer in silent:
            peer.close()
    talk.run(until_open(talk, 0))


def test_a_peer_that_resets_in_the_middle_of_its_calls_harms_nobody(talk: Talk) -> None:
    for _ in range(20):
        peer = socket.create_connection(talk.server.addresses[0])
        peer.sendall(b'{"n":"insert","m":{"type":"x"}}\n' * 50 + b'{"n":"stats"}\n' * 50 + b'{"n":"ec')
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        assert talk.ask(PING) == PONG
    talk.run(until_open(talk, 0))
    assert not talk.server.context.tasks
    assert not talk.backend.inserter.unflushed_bytes


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("asked", "call"),
    [
        ("job", b'{"n":"job","m":"x"}\n'),
        ("jobs", b'{"n":"jobs"}\n'),
        ("explain", b'{"n":"explain","m":"x"}\n'),
        ("types", b'{"n":"types"}\n'),
        ("workers", b'{"n":"workers"}\n'),
        ("schedule_names", b'{"n":"schedules"}\n'),
    ],
)
def test_nothing_is_read_for_peers_that_reset_before_it_was_their_turn(
    asked: str, call: bytes, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with talking(loop) as talk:
        context, questions = talk.server.context, []

        async def note(*arguments: object) -> object:
            questions.append(arguments)
            return []

        async def leave_before_the_turn() -> None:
            for _ in range(READS_AT_ONCE):
                await context.reads.acquire()
            for left in range(20):
                with socket.create_connection(talk.server.addresses[0]) as peer:
                    peer.sendall(call * 20)
                    await until_wanted(talk, left + 1)
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            for _ in range(READS_AT_ONCE):
                context.reads.release()
            await until_open(talk, 0)
            await until(lambda: not context.tasks)

        monkeypatch.setattr(talk.backend, asked, note)
        talk.run(leave_before_the_turn())
        assert not questions


@pytest.mark.parametrize("loop", LOOPS)
def test_a_peer_that_never_reads_is_not_read_and_then_cut_off(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "UNDRAINED_S", 0.05)
    with talking(loop) as server, socket.create_connection(server.server.addresses[0]) as deaf:
        deaf.setblocking(False)
        call = b'{"n":"echo","m":"%b"}\n' % (b"x" * 50_000)

        async def pour() -> int:
            sent = 0
            while not server.server.context.counters.connections_aborted:
                try:
                    sent += deaf.send(call[sent % len(call) :])
                except BlockingIOError:
                    pass
                except ConnectionError:
                    break
                await asyncio.sleep(0)
            return sent

        assert server.run(pour()) < 100 * 1024 * 1024
        assert server.ask(PING) == PONG


def test_a_flood_of_calls_with_long_answers_is_answered_whole(talk: Talk) -> None:
    replies = talk.ask(b'{"n":"help"}\n' * 20_000)
    assert codes(replies) == ["ok"] * 20_000


def ask_daemon(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as peer:
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: peer.recv(65536), b""))


def test_the_daemon_survives_all_of_it(tmp_path: Path) -> None:
    with serving(tmp_path, SERVER__MAX_LINE_BYTES=str(MAX_LINE_BYTES)) as served:
        for line in [*NO_JSON, *(line for line, _ in REFUSED)]:
            assert PONG in ask_daemon(served.port, line + b"\n" + PING), line[:60]
        for place, value in enumerate(ODD_VALUES):
            ask_daemon(
                served.port, b'{"n":"insert","m":{"type":"odd","id":"odd-%d","delay":3600,"data":%b}}\n' % (place, value)
            )
            assert b'"data":%b,' % value in ask_daemon(served.port, b'{"n":"job","m":"odd-%d"}\n' % place)
        assert served.stop() == 0
