from __future__ import annotations

from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from kqs.handlers import JobContext
from kqs.job import MAX_PROGRESS_BYTES, NO_PROGRESS
from kqs.made.progress import checked_progress, progress_of
from kqs.made.values import MAX_LEVELS
from kqs.options import Options
from tests.support.jobs import a_run


class Page(BaseModel):
    number: int


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, NO_PROGRESS),
        (msgspec.Raw(b"null"), NO_PROGRESS),
        (0, b"0"),
        (False, b"false"),
        ("", b'""'),
        ([], b"[]"),
        ({"é": [1.5]}, '{"é":[1.5]}'.encode()),
        (Page(number=7), b'{"number":7}'),
        (msgspec.Raw(b'{\n"a": 1}'), b'{"a":1}'),
        ("x" * (MAX_PROGRESS_BYTES - 2), b'"' + b"x" * (MAX_PROGRESS_BYTES - 2) + b'"'),
        (deep(MAX_LEVELS), b"[" * 60 + b"1" + b"]" * 60),
    ],
)
def test_what_a_handler_says_is_kept_as_json(value: Any, kept: bytes) -> None:
    assert progress_of(value) == kept


@pytest.mark.parametrize(
    "value",
    [
        object(),
        float("nan"),
        [float("inf")],
        "\ud800",
        msgspec.Raw(b'"\\ud800"'),
        msgspec.Raw(b"{"),
        msgspec.Raw(b'"\xff"'),
        "x" * (MAX_PROGRESS_BYTES - 1),
        deep(MAX_LEVELS + 1),
        deep(5000),
    ],
)
def test_what_cannot_be_kept_is_a_value_error(value: Any) -> None:
    with pytest.raises(ValueError, match="this cannot be kept as progress"):
        progress_of(value)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (b"null", NO_PROGRESS),
        (b" 7\r", b"7"),
        (b'{"a": 1e400}', b'{"a": 1e400}'),
        (b"[" * 60 + b"]" * 60, b"[" * 60 + b"]" * 60),
    ],
)
def test_what_a_program_writes_is_kept_as_it_stands(text: bytes, kept: bytes) -> None:
    assert checked_progress(text) == kept


@pytest.mark.parametrize(
    "text", [b"", b"x", b"{", b"NaN", b"1 2", b'"\xff"', b'"\\ud800"', b"[" * 61 + b"]" * 61, b"9" * (MAX_PROGRESS_BYTES + 1)]
)
def test_what_a_program_writes_must_be_json(text: bytes) -> None:
    with pytest.raises(ValueError, match="this cannot be kept as progress"):
        checked_progress(text)


def a_context(progress: bytes | None = None) -> tuple[JobContext, list[JobContext]]:
    told: list[JobContext] = []
    run = msgspec.structs.replace(a_run(1), progress=progress)
    return JobContext(run, Options(), lambda: 7.0, on_save=told.append), told


def test_a_context_shows_what_was_saved_last() -> None:
    context, _ = a_context(b'{"page": 3}')
    assert context.progress == {"page": 3}
    assert context.save([4])
    assert context.progress == [4]
    context.progress.append("mine")
    assert context.progress == [4]
    assert context.save(None)
    assert context.progress is None


@pytest.mark.parametrize("nothing", [None, NO_PROGRESS])
def test_a_context_without_any_has_none(nothing: bytes | None) -> None:
    assert a_context(nothing)[0].progress is None


def test_saving_is_a_touch_and_is_told_once_until_it_was_taken() -> None:
    context, told = a_context()
    assert context.save(1)
    assert context.save(2)
    assert (context.touched_at, context.saved, told) == (7.0, b"2", [context])
    context.is_unsent = False
    assert context.save(3)
    assert told == [context, context]


def test_what_cannot_be_kept_changes_nothing() -> None:
    context, told = a_context(b"1")
    with pytest.raises(ValueError, match="cannot be kept"):
        context.save(object())
    assert (context.progress, context.touched_at, told) == (1, -float("inf"), [])


def test_a_run_that_is_over_saves_nothing() -> None:
    context, told = a_context(b"1")
    context.end()
    assert context.save(2) is False
    assert context.save(object()) is False
    assert (context.progress, told) == (1, [])
