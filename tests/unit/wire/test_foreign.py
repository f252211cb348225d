"""Who begins as a browser can begin is known for foreign before a call of his could be run."""

from __future__ import annotations

import pytest

from kqs.wire.foreign import Greeting

FOREIGN = [
    b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n", b"get / http/1.0\n", b"GET /\r\n", b"GET http://x/\r\n", b"OPTIONS *\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\n", b"FOO~bar /a%20b?c HTTP/3\r\n",
    b"X  \t/  \tHTTP/1.1\n", b"\r\n\r\nPOST / HTTP/1.1\r\n", b" \t\x0b\x0cPOST / HTTP/1.1\r\n",
    b"GET / HTTP/1.1 and more\r\n", b"SETUP rtsp://x RTSP/1.0\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x00\x01\x00\x58\x21\x12\xa4\x42", b"\x00\x6c\x00\x01\x00\x58\x21\x12\xa4\x42",
    b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n", b"M" * 100_000 + b" / HTTP/1.1\r\n",
    b"POST /" + b" " * 100_000 + b"HTTP/1.1\r\n", b" " * 100_000 + b"POST / HTTP/1.1\r\n",
    b"\n" * 100_000 + b"POST / HTTP/1.1\r\n",
]  # fmt: skip

OURS = [
    b'{"n":"ping"}\n', b'{"n":"POST / HTTP/1.1"}\n', b'[{"jsonrpc":"2.0"}]\n', b"\r\n {", b"{", b"  [", b"hello?\n",
    b"GET it\n", b"post me a job\n", b'"GET / HTTP/1.1"\n', b"\x16\x02\n", b"\x00\n", b"stats\nGET / HTTP/1.1\n",
    b"x" * 100_000 + b"\n",
]  # fmt: skip


@pytest.mark.parametrize("start", FOREIGN, ids=lambda start: repr(start[:40]))
def test_another_protocol_is_known(start: bytes) -> None:
    assert Greeting().is_foreign(start) is True


@pytest.mark.parametrize("start", OURS, ids=lambda start: repr(start[:40]))
def test_everything_else_is_ours_to_answer(start: bytes) -> None:
    assert Greeting().is_foreign(start) is False


@pytest.mark.parametrize("step", [1, 7])
@pytest.mark.parametrize(("start", "foreign"), [(start, start in FOREIGN) for start in FOREIGN + OURS if len(start) < 100])
def test_however_it_is_split_it_is_known_the_same(start: bytes, foreign: bool, step: int) -> None:
    greeting = Greeting()
    for at in range(0, len(start), step):
        verdict = greeting.is_foreign(start[at : at + step])
        if verdict is not None:
            break
    assert verdict is foreign


def test_nothing_is_known_of_a_beginning_that_could_become_either() -> None:
    greeting = Greeting()
    for piece in (b"\r\n", b" ", b"PO", b"ST / HT", b"x" * 20_000, b" HTTP/1", b".1"):
        assert greeting.is_foreign(piece) is None
    assert greeting.is_foreign(b"\r\n") is True
