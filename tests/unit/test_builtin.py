from __future__ import annotations

import re

import pytest

from kqs.executor import Executor
from kqs.handlers import JobContext
from kqs.job import Claim, Run
from kqs.modules import load_modules
from kqs.options import Options
from kqs.outcome import Ok, Outcome
from tests.support.supervising import StrictSupervisor


async def outcome_of(type_: str, data: bytes) -> Outcome:
    run = Run(Claim(1, "id-1", 1, 1), type_, 10_000, data, None)
    handler = load_modules(["kqs.builtin"]).get(type_)
    assert handler is not None
    return await Executor(1, StrictSupervisor()).execute(run, handler, JobContext(run, Options(), lambda: 0.0))


async def test_ping_prints_one_line_with_the_payload_as_it_was_sent(capsys: pytest.CaptureFixture[str]) -> None:
    assert await outcome_of("ping", b'{"a":1}') == Ok(None)
    assert re.fullmatch(r'\d\d:\d\d:\d\d id-1 ping running, payload = \{"a":1\}\n', capsys.readouterr().out)


async def test_ping_keeps_terminals_safe(capsys: pytest.CaptureFixture[str]) -> None:
    await outcome_of("ping", '"\x9b2J\u2028"'.encode())
    assert 'payload = "\\u009b2J\\u2028"\n' in capsys.readouterr().out


@pytest.mark.parametrize("data", [b"null", b'{"a":1,"a":1.0e2}', b"12345678901234567890123", '"é"'.encode()])
async def test_echo_returns_its_data_byte_for_byte(data: bytes) -> None:
    assert await outcome_of("echo", data) == Ok(data)
