"""The recorded conversation with beanstalkd against the one that is installed."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.beanstalk_script import read_transcript, record
from tests.support.beanstalkd import running_beanstalkd

RECORDED = Path(__file__).parents[1] / "golden" / "beanstalkd-1.12.txt"


def plain(answer: bytes) -> bytes:
    """An answer without what differs from run to run and from version to version."""
    return b"OK" if answer.startswith(b"OK") else re.sub(rb"DEADLINE_SOON", b"TIMED_OUT", answer)


def test_a_real_server_answers_as_recorded() -> None:
    with running_beanstalkd("-z", "100") as server:
        held = record(server.port)
    assert [(sent, plain(answer)) for sent, answer in held] == [
        (sent, plain(answer)) for sent, answer in read_transcript(RECORDED)
    ]


def test_a_malformed_put_has_its_body_taken_for_commands() -> None:
    with running_beanstalkd() as server:
        assert server.talk(b"put 0 0 0 x\r\nlist-tube-used\r\n") == b"BAD_FORMAT\r\nUSING default\r\n"
