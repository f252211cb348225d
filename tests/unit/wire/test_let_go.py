"""What was refused is let go: a line may have 16 MiB, and whoever sends bad ones sends many."""

from __future__ import annotations

import sys

import pytest

from kqs.errors import CallError
from kqs.wire.call import Dialect
from kqs.wire.dialect import decode_any
from kqs.wire.jobs import decode_jobs
from kqs.wire.scan import SHORT_BYTES

LONG = b"x" * (SHORT_BYTES + 1)
BAD = [
    b"??",
    b"[[",
    b"77",
    b'{"n":"ping","nope":1}',
    b'{"n":"ping","n":"ping"}',
    b'{"n":7}',
    b'{"n":"ping","v":2}',
    b'{"n":"ping","id":{}}',
    b'{"n":"echo","b":"?"}',
    b'{"n":"echo","nope":1,"m":"%b"}' % LONG,
    b'{"n":"echo","m":"%b' % LONG,
    b'{"n":"echo","m":"%b","n":"x"}' % LONG,
    b'{"n":"echo","m":%b}' % (b"[" * len(LONG)),
    b'{"jsonrpc":"2.0","id":1,"method":"ping","nope":1}',
    b'{"jsonrpc":"2.0","id":1,"method":7}',
    b'{"jsonrpc":"2.0","id":1,"method":"echo","nope":1,"params":["%b"]}' % LONG,
]
BAD_JOBS = [
    b'{"type":"t","nope":1}',
    b'{"type":"t","ttr":"x"}',
    b'{"type":"t","type":"t"}',
    b'[{"type":"t"},{}]',
    b'{"type":"t","nope":1,"data":"%b"}' % LONG,
    b'{"type":"t","ttr":"x","data":"%b"}' % LONG,
]


@pytest.mark.parametrize("line", BAD, ids=lambda line: line[:50].decode())
@pytest.mark.parametrize("dialect", Dialect)
def test_a_bad_line_is_let_go(line: bytes, dialect: Dialect) -> None:
    line = bytes(bytearray(line))
    before = sys.getrefcount(line)
    decode_any(line, dialect)
    assert sys.getrefcount(line) == before


@pytest.mark.parametrize("text", BAD_JOBS, ids=lambda text: text[:50].decode())
def test_a_bad_job_is_let_go(text: bytes) -> None:
    text = bytes(bytearray(text))
    before = sys.getrefcount(text)
    try:
        decode_jobs(text)
    except CallError:
        pass
    else:
        pytest.fail("it was taken")
    assert sys.getrefcount(text) == before
