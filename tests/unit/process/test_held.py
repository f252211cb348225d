from __future__ import annotations

from typing import Any

import pytest

from kqs.process import held
from kqs.process.held import LOOKS, HeldLoop
from kqs.process.holder import Holder

HOLDERS = {
    "a handler holds the event loop at jobs.py:7, and nothing else goes on": Holder("jobs.py:7", is_users=True),
    "the event loop does not get on at files.py:9, and nothing else goes on": Holder("files.py:9", is_users=False),
}


class Said:
    """Takes the place of the log."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def say(self, event: str, **details: Any) -> None:
        self.lines.append((event, details))

    info = warning = say

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        lines, self.lines = self.lines, []
        return lines


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Said:
    said = Said()
    monkeypatch.setattr(held, "log", said)
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
    loop: HeldLoop, log: Said, now: list[float], monkeypatch: pytest.MonkeyPatch, expected: str
) -> None:
    monkeypatch.setattr(held, "holder_of_loop", lambda: HOLDERS[expected])
    for _ in range(2):
        for _ in range(LOOKS - 1):
            loop.look()
        assert log.take() == []
        now[0] += 5
        loop.look()
        loop.look()
        assert log.take() == [(expected, {"for_s": 5.0})]
        now[0] += 2
        loop.turned()
        loop.turned()
        assert log.take() == [("the event loop turns again", {"after_s": 7.0})]


def test_a_loop_that_turns_between_looks_is_not_held_nor_one_that_waits(
    loop: HeldLoop, log: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "holder_of_loop", lambda: Holder("jobs.py:7", is_users=True))
    for _ in range(3 * LOOKS):
        loop.look()
        loop.turned()
    monkeypatch.setattr(held, "holder_of_loop", lambda: None)
    for _ in range(3 * LOOKS):
        loop.look()
    loop.turned()
    assert log.take() == []


def test_a_process_that_stood_still_as_a_whole_was_held_by_nobody(
    loop: HeldLoop, log: Said, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "holder_of_loop", lambda: Holder("jobs.py:7", is_users=True))
    now[0] += 3600
    loop.look()
    loop.turned()
    assert log.take() == []
