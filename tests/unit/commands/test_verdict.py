from __future__ import annotations

import errno

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kqs import verdicts
from kqs.commands.verdict import result_of
from kqs.executor.outcomes import judge_result
from kqs.job import Claim, Run
from kqs.minding.command import Command
from kqs.minding.frames import Ended, Unstarted
from kqs.minding.limits import Limits
from kqs.outcome import Ok

COMMAND = Command(["./resize.sh", "--fast"], "/srv", output_bytes=1000, limits=Limits(cpu_s=3))
RUN = Run(Claim(1, "id-1", 1, 1), "resize", 10_000, b"null", None)


def ended(code: int = 0, output: bytes = b"", errors: bytes = b"", *, is_cut: bool = False) -> Ended:
    return Ended(code, False, is_cut, output, errors)


def written(output: bytes) -> bytes | None:
    """Return the result of a command with such output, as it is stored."""
    outcome = judge_result(result_of(ended(output=output), COMMAND), RUN)
    assert isinstance(outcome, Ok)
    return outcome.result


@pytest.mark.parametrize(
    ("output", "result"),
    [
        (b"", None),
        (b"\n", None),
        (b" \n\t", None),
        (b"null\n", None),
        (b'{"a": [1,\n 2.50]}\n', b'{"a":[1,2.50]}'),
        (b"12345678901234567890123\n", b"12345678901234567890123"),
        (b'"text"', b'"text"'),
        (b"hello\r\n\n", b'"hello"'),
        (b"  two  words \n", b'"  two  words "'),
        (b"a\nb\n", b'"a\\nb"'),
        (b'{"a":1}\n{"b":2}\n', b'"{\\"a\\":1}\\n{\\"b\\":2}"'),
        (b"{'a': 1}", b"\"{'a': 1}\""),
        (b"NaN\n", b'"NaN"'),
        (b"[1, NaN]", b'"[1, NaN]"'),
        (b"-Infinity", b'"-Infinity"'),
        (b"[" * 65 + b"]" * 65, b'"' + b"[" * 65 + b"]" * 65 + b'"'),
        (b'"\\ud800"', b'"\\"\\\\ud800\\""'),
        (b"\xff\xfe caf\xe9", '"\ufffd\ufffd caf\ufffd"'.encode()),
        (b'"\xff"', '"\\"\ufffd\\""'.encode()),
        (b"\xef\xbb\xbf1", '"\ufeff1"'.encode()),
        (b"a\0b", b'"a\\u0000b"'),
    ],
)
def test_output_is_json_if_it_is_that_and_else_text(output: bytes, result: bytes | None) -> None:
    assert written(output) == result


@given(st.binary())
def test_any_output_is_a_result_of_one_line(output: bytes) -> None:
    result = written(output)
    if result is not None:
        msgspec.json.decode(result)
        assert b"\n" not in result


@pytest.mark.parametrize(
    ("output", "delay"),
    [
        (b"", None),
        (b"60\n", 60.0),
        (b" 0.5 ", 0.5),
        (b"later", None),
        (b"-1", None),
        (b"1e3", None),
        (b"10000000000", 10_000_000_000.0),
        (b"10000000001", None),
        (b"60\n60\n", None),
    ],
)
def test_75_is_again_in_the_seconds_that_it_says(output: bytes, delay: float | None) -> None:
    with pytest.raises(verdicts.Again) as raised:
        result_of(ended(75, output, b"not yet"), COMMAND)
    assert raised.value.delay == delay


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (ended(1), "exit code 1"),
        (ended(255, b"{}", b"  \nno such picture\n\n"), "exit code 255: no such picture"),
        (ended(2, errors=b"\xff caf\xe9"), "exit code 2: \ufffd caf\ufffd"),
        (ended(2, errors=b"lf of a line\nthe last one\n", is_cut=True), "exit code 2: …the last one"),
        (ended(2, errors=b"one long line", is_cut=True), "exit code 2: …one long line"),
        (ended(-9), "killed by SIGKILL"),
        (ended(-11, errors=b"oh"), "killed by SIGSEGV: oh"),
        (ended(-24), "killed by SIGXCPU, after 3 s of CPU time (cpu_s)"),
        (ended(-40), "killed by signal 40"),
        (
            Unstarted(errno.ENOENT, "./resize.sh"),
            "the command cannot be started: ./resize.sh: no such file or directory",
        ),
        (
            Unstarted(errno.EPERM, "memory_bytes"),
            "the command ./resize.sh cannot be started: memory_bytes: operation not permitted",
        ),
        (Unstarted(0, "process"), "the command ./resize.sh cannot be started: process: for no reason that is known"),
    ],
)
def test_any_other_end_is_a_failure_that_a_retry_may_help(report: Ended | Unstarted, reason: str) -> None:
    with pytest.raises(verdicts.Fail) as raised:
        result_of(report, COMMAND)
    assert (raised.value.reason, raised.value.final) == (reason, False)


def test_too_much_output_is_a_final_failure_whatever_the_exit_code() -> None:
    for code in (0, 75, -9):
        with pytest.raises(verdicts.Fail) as raised:
            result_of(Ended(code, True, False, b"", b""), COMMAND)
        assert (raised.value.reason, raised.value.final) == ("its output has more than 1000 bytes (output_bytes)", True)
