"""What is logged of a conversation."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from tests.support.conversing import Conversing


async def test_what_goes_in_out_and_wrong_is_logged() -> None:
    talk = Conversing(trace=True)
    with capture_logs() as logged:
        talk.hear(b'{"n":"ping"}\n' + b'{"n":"nope"}\n')
    assert [entry["event"] for entry in logged] == ["<", "!", ">"]


@pytest.mark.parametrize(
    "line",
    [
        b'{"n":"insert","m":{"type":"a","auth":{"password":"sesame"}}}',
        b'{"n":"insert","m":[{"type":"a","auth":"sesame"}]}',
        b'{"n":"insert","m":{"type":"a","\\u0061uth":"sesame"}}',
        b'{"n":"insert","m":[["auth","sesame"]]}',
        b'{"n":"stats","m":{"Auth":"sesame"}}',
        b'{"n":"insert","m":{"type":"a","auth":"sesame"',
    ],
)
async def test_no_password_stands_in_the_log(line: bytes) -> None:
    talk = Conversing(trace=True)
    with capture_logs() as logged:
        talk.hear(line + b"\n")
    assert logged
    assert "sesame" not in str(logged)


@pytest.mark.parametrize("key", [b'"auth"', b'"\\u0061uth"'])
async def test_nor_in_a_call_that_was_broken_over_several_lines(key: bytes) -> None:
    talk = Conversing(trace=True)
    with capture_logs() as logged:
        talk.hear(b'{"n":"insert","m":{"type":"a",\n' + key + b":{\n")
        talk.hear(b'"password":"sesame"\n}}}\n')
    assert len(logged) > 3
    assert "sesame" not in str(logged)
