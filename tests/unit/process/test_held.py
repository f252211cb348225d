from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from kqs.process import held
from kqs.process.held import LOOKS, HeldLoop
from kqs.process.holder import Holder

HOLDERS = {
    "a handler holds the event loop at jobs.py:7, and nothing else goes on": Holder("jobs.py:7", is_users=True),
    "the event loop does not get on at files.py:9, and nothing else goes on": Holder("files.py:9", is_users=False),
}


Lines = list[MutableMapping[str, Any]]


@pytest.fixture
def log() -> Iterator[Lines]:
    with capture_logs() as lines:
        yield lines


def take(log: Lines) -> list[tuple[str, float]]:
    """Return what was said since, and of how many seconds."""
    said = [(line["event"], line["for_s"] if "for_s" in line else line["after_s"]) for line in log]
    log.clear()
    return said


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("kqs.process.held.time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def loop(now: list[float]) -> HeldLoop:
    return HeldLoop()


@pytest.mark.parametrize("expected", HOLDERS)
def test_what_holds_a_loop_is_said_once_and_that_it_turns_again(
    loop: HeldLoop, log: Lines, now: list[float], monkeypatch: pytest.MonkeyPatch, expected: str
) -> None:
    monkeypatch.setattr(held, "holder_of_loop", lambda: HOLDERS[expected])
    for _ in range(2):
        for _ in range(LOOKS - 1):
            loop.look()
        assert take(log) == []
        now[0] += 5
        loop.look()
        loop.look()
        assert take(log) == [(expected, 5.0)]
        now[0] += 2
        loop.turned()
        loop.turned()
        assert take(log) == [("the event loop turns again", 7.0)]


def test_a_loop_that_turns_between_looks_is_not_held_nor_one_that_waits(
    loop: HeldLoop, log: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "holder_of_loop", lambda: Holder("jobs.py:7", is_users=True))
    for _ in range(3 * LOOKS):
        loop.look()
        loop.turned()
    monkeypatch.setattr(held, "holder_of_loop", lambda: None)
    for _ in range(3 * LOOKS):
        loop.look()
    loop.turned()
    assert take(log) == []


def test_a_process_that_stood_still_as_a_whole_was_held_by_nobody(
    loop: HeldLoop, log: Lines, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "holder_of_loop", lambda: Holder("jobs.py:7", is_users=True))
    now[0] += 3600
    loop.look()
    loop.turned()
    assert take(log) == []
