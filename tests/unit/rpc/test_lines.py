"""Who must go when what was sent and not run takes too much: never who keeps sending, and takes what it asked for."""

from __future__ import annotations

import pytest

from kqs.rpc import lines as lines_module
from kqs.rpc.lines import Lines


class Sending:
    """A connection that holds lines."""

    def __init__(self, lines: Lines, open_bytes: int = 0, waiting_bytes: int = 0) -> None:
        self.open_bytes = open_bytes
        self.waiting_bytes = waiting_bytes
        self.has_many_waiting = False
        self.is_inserting = False
        self.taken_bytes = 0
        lines.open_bytes += open_bytes
        lines.waiting_bytes += waiting_bytes


@pytest.fixture
def gone() -> list[Sending]:
    return []


@pytest.fixture
def lines(gone: list[Sending]) -> Lines:
    lines = Lines(100_000, 100_000)

    def turn_away(sender: Sending, of_line: bool) -> None:
        gone.append(sender)
        lines.open_bytes -= sender.open_bytes
        if not of_line:
            lines.waiting_bytes -= sender.waiting_bytes

    lines.turn_away = turn_away  # type: ignore[assignment]  # the senders of this test are enough of a conversation
    return lines


def test_the_line_without_progress_for_longest_goes_first(lines: Lines, gone: list[Sending]) -> None:
    first, second, third = (Sending(lines, open_bytes=60_000) for _ in range(3))
    for sender in (first, second, third):
        lines.note_open(sender, has_progressed=False)
    lines.note_open(first, has_progressed=True)
    lines.note_open(second, has_progressed=False)
    assert lines.is_too_much
    lines.make_room(third)
    assert gone == [second, third]
    assert not lines.is_too_much


def test_short_lines_are_never_given_up(lines: Lines, gone: list[Sending]) -> None:
    many = [Sending(lines, open_bytes=4000) for _ in range(30)]
    for sender in many:
        lines.note_open(sender, has_progressed=True)
    lines.make_room(many[-1])
    assert gone == []


def test_a_line_that_has_ended_is_forgotten(lines: Lines, gone: list[Sending]) -> None:
    done, other = Sending(lines, open_bytes=60_000), Sending(lines, open_bytes=60_000)
    for sender in (done, other):
        lines.note_open(sender, has_progressed=False)
    done.open_bytes = 0
    lines.note_open(done, has_progressed=True)
    lines.make_room(other)
    assert gone == [other]


def test_of_waiting_lines_those_of_peers_that_take_nothing_go_first(
    lines: Lines, gone: list[Sending], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(lines_module, "clock", lambda: now[0])
    deaf, slow, free, recent, last = (Sending(lines, waiting_bytes=30_000) for _ in range(5))
    for sender in (slow, free, deaf):
        lines.note_blocked(sender)
    lines.note_free(free)
    now[0] = 10.0
    lines.note_blocked(recent)
    slow.taken_bytes = 1
    lines.make_room(last)
    assert gone == [deaf, last]


def test_then_who_has_most_of_them_but_for_single_lines_and_inserts(lines: Lines, gone: list[Sending]) -> None:
    single, small, great = (Sending(lines, waiting_bytes=size) for size in (70_000, 20_000, 30_000))
    small.has_many_waiting = great.has_many_waiting = True
    lines.senders = [single, small, great]
    lines.make_room(small)
    assert gone == [great, small]


def test_inserts_that_wait_for_the_journal_are_never_turned_away(lines: Lines, gone: list[Sending]) -> None:
    inserting = Sending(lines, waiting_bytes=200_000)
    inserting.is_inserting = True
    lines.make_room(inserting)
    assert gone == []


def test_who_has_left_is_not_turned_away(lines: Lines, gone: list[Sending]) -> None:
    left, other = Sending(lines, open_bytes=60_000), Sending(lines, open_bytes=60_000)
    for sender in (left, other):
        lines.note_open(sender, has_progressed=False)
    lines.leave(left)
    lines.make_room(other)
    assert gone == [other]
