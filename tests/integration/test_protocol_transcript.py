"""The transcripts in docs/protocol.md and docs/write-a-client.md, replayed against a real server."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kqs.rpc.calls import CALLS
from tests.support.serving import Served, serving

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["protocol.md", "write-a-client.md"]


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    types = {"TYPES__rare": '{"max_waiting":1}', "TYPES__parcel-sent": '{"fan_out":["bill","tell"]}'}
    with serving(tmp_path, **types) as running:
        yield running


def exchanges(transcript: str) -> Iterator[tuple[str, list[str]]]:
    """Each line sent, with the lines that answer it."""
    for part in transcript.split("> ")[1:]:
        sent, *answers = part.rstrip("\n").split("\n")
        yield sent, [answer.removeprefix("< ") for answer in answers]


def matches(expected: str, answer: str) -> bool:
    """`…` stands for any text."""
    return re.fullmatch(".*".join(map(re.escape, expected.split("…"))), answer) is not None


@pytest.mark.parametrize("page", PAGES)
def test_the_conversations_of_a_page_are_what_the_server_says(page: str, served: Served) -> None:
    """On one connection each; `$name` is what an answer has in that place, and stands for it from then on."""
    conversations = blocks(page, "conversation")
    assert len(conversations) >= 3
    for conversation in conversations:
        known: dict[str, str] = {}
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as peer, peer.makefile("rw") as lines:
            for sent, expected in exchanges(conversation):
                lines.write(with_names(sent, known) + "\n")
                lines.flush()
                for pattern in expected:
                    answer = lines.readline().rstrip("\n")
                    named = re.fullmatch(with_groups(pattern, known), answer)
                    assert named is not None, f"\n> {sent}\nexpected {pattern}\n     got {answer}"
                    known |= named.groupdict()


def with_names(text: str, known: dict[str, str]) -> str:
    return re.sub(r"\$(\w+)", lambda name: known[name[1]], text)


def with_groups(pattern: str, known: dict[str, str]) -> str:
    """Return a regular expression: `…` is any text, and a new name a group."""
    text = ".*".join(map(re.escape, re.sub(r"\$(\w+)", lambda name: known.get(name[1], name[0]), pattern).split("…")))
    return re.sub(r"\\\$(\w+)", r"(?P<\1>[^\"]+)", text)


def test_the_manuals_transcripts_are_what_the_server_says(served: Served) -> None:
    transcripts = sorted(blocks("protocol.md", "transcript"), key=lambda text: '"quit"' in text)  # after which it serves none
    assert len(transcripts) >= 5
    for transcript in transcripts:
        for sent, expected in exchanges(transcript):
            answers = served.ask(sent)
            assert len(answers) == len(expected), (sent, answers)
            for pattern, answer in zip(expected, answers, strict=True):
                assert matches(pattern, answer), f"\n> {sent}\nexpected {pattern}\n     got {answer}"


def test_every_call_has_its_transcript() -> None:
    transcripts = [*blocks("protocol.md", "conversation"), *blocks("protocol.md", "transcript")]
    sent = [line for transcript in transcripts for line, _ in exchanges(transcript)]
    named = {name for line in sent for name in re.findall(r'"(?:n|method)": ?"(\w+)"', line)}
    assert named >= set(CALLS)
