"""No line, whatever it is made of, holds the loop for longer than a step may."""

from __future__ import annotations

import sys
import time
from contextlib import suppress

import pytest

from kqs.errors import CallError
from kqs.wire.call import BadLine, Call
from kqs.wire.dialect import decoding_any
from kqs.wire.jobs import decoding
from kqs.wire.steps import Steps, finish

#: a quarter of the longest line that the default takes
LINE_BYTES = 4 * 1024 * 1024
#: Of processor time, which others' work lengthens little. What is one pass of native code takes a quarter of what it takes on
#: the whole line, where 50 ms is the goal; what is a loop of ours does not grow with the line, but a tracer slows it down.
STEP_S = 0.03 if sys.gettrace() is None else 0.15
#: what `slowness` takes on the machine where this was found, in s; those that tests run on take up to twice as long
REFERENCE_S = 0.008
#: what others do to the machine lengthens some tries, and shortens none: one within the bound is enough
TRIES = 6


def filled(begin: bytes, unit: bytes, end: bytes) -> bytes:
    return begin + unit * ((LINE_BYTES - len(begin) - len(end)) // len(unit)) + end


INSERT = b'{"n":"insert","m":'
JOB = INSERT + b'{"type":"a","delay":9,"data":'
WORST = {
    "numbers": filled(b"[", b"1,", b"1]"),
    "objects": filled(b"[", b"{},", b"{}]"),
    "calls": filled(b"[", b'{"jsonrpc":"2.0","method":"ping"},', b"1]"),
    "hidden key": filled(rb'{"jsonrpc":"2.0","id":1,"method":"echo","params":["\u0061",', b"[],", b"1]}"),
    "auth": filled(INSERT + b'{"auth":1,"type":"a","data":[', b"[1],", b"1]}}"),
    "jobs": filled(INSERT + b"[", b'{"type":"a"},', b'{"type":"a"}]}'),
    "jobs with auth": filled(INSERT + b"[", b'{"type":"a","auth":{"a":1}},', b'{"type":"a"}]}'),
    "no jobs": filled(INSERT + b"[", b"1,", b"1]}"),
    "repeated keys": filled(b'{"n":"echo"', b',"b":1', b"}"),
    "unknown keys": b'{"n":"echo"' + b"".join(b',"k%d":1' % number for number in range(LINE_BYTES // 12)) + b"}",
    "repeated fields": filled(INSERT + b'{"type":"a"', b',"ttr":1', b"}}"),
    "data twice": JOB + b"[" + b"[]," * (LINE_BYTES // 6) + b'1],"data":[' + b"{}," * (LINE_BYTES // 6) + b"1]}}",
    "escapes": filled(JOB + b'"', rb"\n", b'"}}'),
    "backslashes": filled(JOB + b'"', rb"\\", b'"}}'),
    "surrogates": filled(JOB + b'"', rb"\ud83d\ude00", b'"}}'),
    "long key": filled(INSERT + b'{"type":"a","', rb"\n", b'":1}}'),
    "long key of surrogates": filled(b'{"', rb"\ud83d\ude00", b'":1}'),
    "long type": filled(INSERT + b'{"type":"', rb"\u0041", b'"}}'),
    "digits": filled(INSERT + b'{"type":"a","ttr":', b"1", b"}}"),
    "deep": filled(JOB + b"[", b"[[[[[]]]]],", b"1]}}"),
    "too deep": b"[" * LINE_BYTES,
    "letters": filled(JOB + b'"', "é".encode(), b'"}}'),
    "strings": filled(JOB + b"[", b'"",', b"1]}}"),
    "spaces": filled(INSERT, b" ", b'{"type":"a"}}'),
    "base64": filled(b'{"n":"echo","b":"', b"AAAA", b'"}'),
    "half a line": filled(INSERT + b"[", b"1,", b""),
}


def longest_step_s(steps: Steps[list[Call | BadLine]]) -> tuple[float, list[Call | BadLine]]:
    longest = 0.0
    while True:
        began = time.thread_time()
        try:
            next(steps)
        except StopIteration as end:
            return max(longest, time.thread_time() - began), end.value
        longest = max(longest, time.thread_time() - began)


def decoding_all(line: bytes) -> Steps[list[Call | BadLine]]:
    """Decode as the server does: the line, and the jobs of an insert."""
    calls = yield from decoding_any(line)
    for call in calls:
        if isinstance(call, Call) and call.name == "insert":
            yield
            with suppress(CallError):
                yield from decoding(bytes(call.arg), 100_000)
    return calls


def slowness() -> float:
    """Return how many times longer this machine takes now than the one for which the bound was found; 1 at least."""

    def reference_s() -> float:
        began = time.thread_time()
        for number in range(300_000):
            number % 7
        return time.thread_time() - began

    return 1.0 if sys.gettrace() is not None else max(1.0, min(reference_s() for _ in range(3)) / REFERENCE_S)


@pytest.mark.alone
@pytest.mark.parametrize("line", WORST.values(), ids=WORST.keys())
def test_no_step_of_a_long_line_takes_long(line: bytes) -> None:
    assert any(_is_in_time(line) for _ in range(TRIES))


def _is_in_time(line: bytes) -> bool:
    longest, calls = longest_step_s(decoding_all(line + b"\n"))
    assert calls
    return longest < STEP_S * slowness()


def test_finish_does_all_steps() -> None:
    assert len(finish(decoding_all(WORST["jobs"]))) == 1
