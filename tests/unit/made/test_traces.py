"""Traces of whatever size: what is little is written whole, of what is much a part is looked at."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest

from kqs.made import traces
from kqs.made.traces import HEAD_CHARS, MAX_CHARS, MAX_EXCEPTIONS, MAX_FRAMES, MAX_NOTES, TOLD_EXCEPTIONS, text_of, trace_of


class CountedError(Exception):
    """Counts how often any of its kind is made text."""

    looks = 0

    def __str__(self) -> str:
        CountedError.looks += 1
        return f"number {self.args[0]}"


@pytest.fixture(autouse=True)
def _nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CountedError, "looks", 0)


def raised(fault: BaseException) -> BaseException:
    try:
        raise fault
    except BaseException as caught:
        return caught


def group(count: int) -> BaseException:
    return raised(BaseExceptionGroup("many", [CountedError(number) for number in range(count)]))


def groups(depth: int) -> BaseException:
    fault: BaseException = CountedError(0)
    for _ in range(depth):
        fault = BaseExceptionGroup("one", [fault])
    return raised(fault)


def tree(width: int, depth: int) -> BaseException:
    if not depth:
        return CountedError(0)
    return BaseExceptionGroup("tree", [tree(width, depth - 1) for _ in range(width)])


def chain(count: int, link: str) -> BaseException:
    fault: BaseException = CountedError(0)
    for number in range(1, count):
        following = CountedError(number)
        setattr(following, link, fault)
        fault = following
    return raised(fault)


def noted(notes: Any) -> BaseException:
    fault = CountedError(0)
    fault.__notes__ = notes
    return raised(fault)


def recursion(depth: int) -> BaseException:
    def descend(left: int) -> None:
        if not left:
            raise CountedError(0)
        descend(left - 1)

    try:
        descend(depth)
    except CountedError as fault:
        return fault
    raise AssertionError


@pytest.mark.parametrize(
    "make",
    [
        lambda: raised(ValueError("no")),
        lambda: ValueError("never raised"),
        lambda: group(3),
        lambda: groups(5),
        lambda: chain(5, "__cause__"),
        lambda: chain(5, "__context__"),
        lambda: noted(["one", "two\nlines"]),
        lambda: recursion(50),
        lambda: raised(SyntaxError("bad", ("file", 1, 1, "x = = 1", 1, 2))),
    ],
)
def test_what_is_little_is_written_as_python_writes_it(make: Callable[[], BaseException]) -> None:
    fault = make()
    assert trace_of(fault) == "".join(traceback.format_exception(fault)).rstrip()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: group(MAX_EXCEPTIONS + 1), "number 0"),
        (lambda: group(20_000), "many (20000 sub-exceptions)"),
        (lambda: groups(2 * MAX_EXCEPTIONS), "one (1 sub-exception)"),
        (lambda: raised(tree(10, 4)), "ExceptionGroup holds:"),
        (lambda: chain(20_000, "__cause__"), "CountedError was caused by:"),
        (lambda: chain(20_000, "__context__"), "CountedError was raised while handling:"),
    ],
)
def test_of_many_exceptions_few_are_looked_at(make: Callable[[], BaseException], told: str) -> None:
    trace = trace_of(make())
    assert told in trace
    assert trace.endswith("… (more exceptions) …")
    assert CountedError.looks <= MAX_EXCEPTIONS + TOLD_EXCEPTIONS + 2
    assert len(trace) <= MAX_CHARS + 100


def test_a_fault_is_told_before_those_that_it_came_from() -> None:
    trace = trace_of(chain(1000, "__cause__"))
    assert trace.index("number 999") < trace.index("number 998") < trace.index("number 990")
    assert "in raised" in trace


def test_exceptions_that_lead_back_to_each_other_are_told_once() -> None:
    one, other = raised(CountedError(1)), raised(CountedError(2))
    one.__cause__, other.__cause__ = other, one
    assert trace_of(one).count("number 1") == 1
    one.__notes__ = ["x"] * (MAX_NOTES + 1)
    trace = trace_of(one)
    assert trace.count("number 1") == trace.count("number 2") == 1


def test_of_a_deep_recursion_the_beginning_and_the_end_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MAX_FRAMES", 100)
    fault = recursion(500)
    frames = traceback.StackSummary.extract(traceback.walk_tb(fault.__traceback__))
    trace = trace_of(fault)
    assert "in recursion" in trace
    assert "raise CountedError(0)" in trace
    assert f"… ({len(frames) - 25} frames) …" in trace
    assert trace.count("\n  File ") <= 25


def test_frames_of_all_exceptions_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MAX_FRAMES", 60)
    trace = trace_of(BaseExceptionGroup("two", [recursion(40), recursion(40)]))
    assert "Traceback (most recent call last):" in trace
    assert trace.count("ExceptionGroup holds:") == 2
    assert MAX_FRAMES > 1000  # Python's own limit: who has not raised it gets the trace whole


@pytest.mark.parametrize(
    "notes",
    [["note"] * 100_000, ["x" * 1_000_000], ["a\n" * 1_000_000], ["note"] * (MAX_NOTES + 1), [7, "note"], ("note", b"x")],
)
def test_of_many_or_long_or_odd_notes_some_are_told(notes: Any) -> None:
    trace = trace_of(noted(notes))
    assert "number 0" in trace
    assert text_of(notes[0])[:20] in trace
    assert len(trace) <= MAX_CHARS + 100
    assert len(notes) <= 5 or f"… ({len(notes) - 5} notes) …" in trace


@pytest.mark.parametrize("notes", ["text", 7, {"a": 1}])
def test_notes_that_are_no_list_are_none_that_count(notes: Any) -> None:
    assert "number 0" in trace_of(noted(notes))


def test_a_long_text_keeps_both_ends() -> None:
    trace = trace_of(raised(ValueError("begin" + "x" * 1_000_000 + "end")))
    assert "ValueError: begin" in trace
    assert trace.endswith("end")
    assert len(trace) <= MAX_CHARS + 100
    trace = trace_of(raised(SyntaxError("bad", ("file", 1, 1, "x" * 1_000_000, 1, 2))))
    assert "SyntaxError: bad" in trace
    assert len(trace) <= MAX_CHARS + 100


def test_text_is_its_beginning() -> None:
    assert text_of("x" * 20_000) == "x" * MAX_CHARS
    assert text_of("a\udcff") == r"a\udcff"
    assert HEAD_CHARS < MAX_CHARS


def test_what_cannot_be_looked_at_is_told_as_that() -> None:
    class BrokenError(Exception):
        @property
        def __cause__(self) -> Any:  # type: ignore[override]  # that is the fault
            raise KeyboardInterrupt

    assert trace_of(BrokenError()) == "(the trace cannot be shown)"


def test_a_text_that_cannot_be_had_hides_no_other() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    assert text_of(MuteError()) == "(cannot be shown)"
