"""The transcripts in docs/protocol.md, replayed against a real server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.serving import Served, serving

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"
TRANSCRIPTS = re.findall(r"^```transcript\n(.*?)^```$", PROTOCOL.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("transcript")) as running:
        yield running


def exchanges(transcript: str) -> Iterator[tuple[str, list[str]]]:
    """Each line sent, with the lines that answer it."""
    for part in transcript.split("> ")[1:]:
        sent, *answers = part.rstrip("\n").split("\n")
        yield sent, [answer.removeprefix("< ") for answer in answers]


def matches(expected: str, answer: str) -> bool:
    """`…` stands for any text."""
    return re.fullmatch(".*".join(map(re.escape, expected.split("…"))), answer) is not None


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 5


def test_the_manuals_transcripts_are_what_the_server_says(served: Served) -> None:
    for transcript in TRANSCRIPTS:
        for sent, expected in exchanges(transcript):
            answers = served.ask(sent)
            assert len(answers) == len(expected), (sent, answers)
            for pattern, answer in zip(expected, answers, strict=True):
                assert matches(pattern, answer), f"\n> {sent}\nexpected {pattern}\n     got {answer}"
