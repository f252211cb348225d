from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from kqs.queue.bookmarks import Bookmark, Bookmarks


@dataclass(frozen=True)
class Said:
    """What a test says of some jobs, each a letter."""

    word: str
    ids: str

    def part(self, indexes: Sequence[int]) -> Said:
        return Said(self.word, "".join(self.ids[index] for index in indexes))


class Told:
    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self.bookmarks = Bookmarks[Said](lambda batch: self.said.append((batch.word, batch.ids)))

    def say(self, word: str, ids: str, bookmark: Bookmark | None = None) -> None:
        self.bookmarks.tell(Said(word, ids), bookmark)


@pytest.fixture
def told() -> Told:
    return Told()


def test_what_is_said_of_jobs_without_a_bookmark_is_told_at_once_and_whole(told: Told) -> None:
    told.say("queued", "aab")
    assert told.said == [("queued", "aab")]
    assert not told.bookmarks


def test_what_happens_meanwhile_is_told_behind_the_bookmark_and_of_others_at_once(told: Told) -> None:
    bookmark = Bookmark()
    told.bookmarks.leave(bookmark, "ab")
    told.say("queued", "axb")
    told.say("started", "b")
    assert told.said == [("queued", "x")]
    told.say("retry", "ab", bookmark)
    told.bookmarks.take_out(bookmark, "ab")
    assert told.said[1:] == [("retry", "ab"), ("queued", "a"), ("queued", "b"), ("started", "b")]
    assert not told.bookmarks


def test_a_bookmark_that_nothing_is_told_at_is_taken_out(told: Told) -> None:
    bookmark = Bookmark()
    told.bookmarks.leave(bookmark, "a")
    told.say("started", "a")
    told.bookmarks.take_out(bookmark, "ab")
    told.bookmarks.take_out(bookmark, "ab")
    assert told.said == [("started", "a")]
    assert not told.bookmarks


def test_a_bookmark_behind_another_waits_for_that(told: Told) -> None:
    insert, report = Bookmark(), Bookmark()
    told.bookmarks.leave(insert, "a")
    told.say("started", "a")
    told.bookmarks.leave(report, "a")
    told.say("queued", "a")
    told.say("retry", "a", report)
    told.bookmarks.take_out(report, "a")
    assert told.said == []
    told.say("created", "a", insert)
    told.bookmarks.take_out(insert, "a")
    assert [word for word, _ in told.said] == ["created", "started", "retry", "queued"]


def test_what_is_said_at_a_bookmark_that_does_not_stand_waits_like_anything_else(told: Told) -> None:
    bookmark = Bookmark()
    told.bookmarks.leave(bookmark, "a")
    told.say("success", "ab", Bookmark())
    assert told.said == [("success", "b")]
    told.bookmarks.take_out(bookmark, "a")
    assert told.said == [("success", "b"), ("success", "a")]


def test_nothing_is_told_of_what_was_forgotten(told: Told) -> None:
    bookmark = Bookmark()
    told.bookmarks.leave(bookmark, "a")
    told.say("started", "a")
    told.bookmarks.clear()
    told.bookmarks.take_out(bookmark, "a")
    told.say("queued", "a")
    assert told.said == [("queued", "a")]
