"""The traces of handlers' exceptions, as text of bounded length for bounded work.

An author's exception may hold 200,000 others, in a group or in a chain, a million notes, or the frames of a deep recursion.
`traceback` would write them all before any could be left out; so what is too much for it is counted first, and told in part.
"""

from __future__ import annotations

import contextlib
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType

#: frames of a file in here are KQS's own
_PACKAGE = f"{Path(__file__).parents[1]}/"
#: of a longer trace or text the log gets the beginning and, since the fault stands there, more of the end
MAX_CHARS = 10_000
HEAD_CHARS = 2_000
#: what `traceback` is given to write whole; CPython's own limit is 1,000 frames, and a trace of so many takes some 30 ms
MAX_EXCEPTIONS = 50
MAX_FRAMES = 1_200
MAX_NOTES = 50
#: what is told of more: exceptions, the nearest ones first; of each, frames where it began and where it ended; and notes
TOLD_EXCEPTIONS = 10
TOLD_FIRST_FRAMES = 5
TOLD_LAST_FRAMES = 20
TOLD_NOTES = 5


def text_of(value: object) -> str:
    """Return the beginning of `str(value)`, MAX_CHARS of it, as text that every store takes.

    An author's `__str__` may raise, and file names bring lone surrogates.
    """
    return _storable(value, lambda text: str.__getitem__(text, slice(MAX_CHARS)))


def trace_of(fault: BaseException) -> str:
    """Return the trace of `fault`, with its causes and all that it holds, or a part of it. Never raises."""
    try:
        if _is_little(fault):
            return cut("".join(traceback.format_exception(fault)).rstrip())
        return cut("\n".join(_told_in_part(fault)))
    except BaseException:
        return "(the trace cannot be shown)"


def begin_trace_with_authors(fault: BaseException) -> None:
    """Take the frames of this package that stand before an author's from the trace of `fault`: they say nothing to anybody.

    Where there are no others they stay. Never raises.
    """
    with contextlib.suppress(BaseException):
        trace = fault.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_PACKAGE):
            trace = trace.tb_next
        if trace is not None:
            BaseException.with_traceback(fault, trace)


def cut(text: str) -> str:
    """Return `text`, without its middle if it is long."""
    left_out = len(text) - MAX_CHARS
    if left_out <= 0:
        return text
    return f"{text[:HEAD_CHARS]}\n… ({left_out} characters) …\n{text[HEAD_CHARS - MAX_CHARS :]}"


def end_of(fault: BaseException, frames: int, chars: int) -> str:
    """Return where `fault` was raised: the last frames, as whole lines, at most so many characters. Never raises."""
    try:
        text = "".join(traceback.format_tb(fault.__traceback__, -frames)).rstrip()
        if len(text) > chars:
            text = text[-chars:]
            text = text[text.find("\n") + 1 :]
        return _storable(text, str)
    except BaseException:
        return ""


def _storable(value: object, shorten: Callable[[str], str]) -> str:
    try:
        return str.encode(shorten(str(value)), errors="backslashreplace").decode()
    except BaseException:
        return "(cannot be shown)"


def _is_little(fault: BaseException) -> bool:
    """Tell whether all that `traceback` would write of `fault` is little. Looks at no more than what is little."""
    waiting, seen = [fault], {id(fault)}
    frames = notes = 0
    while waiting:
        one = waiting.pop()
        frames += sum(1 for _ in islice(_frames(one), MAX_FRAMES + 1))
        notes += len(_notes(one))
        if frames > MAX_FRAMES or notes > MAX_NOTES or not all(map(_is_short, _texts(one))):
            return False
        for other in islice(_others(one), MAX_EXCEPTIONS + 1):
            if id(other) not in seen:
                seen.add(id(other))
                waiting.append(other)
        if len(seen) > MAX_EXCEPTIONS:
            return False
    return True


def _told_in_part(fault: BaseException) -> Iterator[str]:
    """Yield the lines that are told of too much, `fault` first."""
    waiting, seen = deque([("", fault)]), {id(fault)}
    for _ in range(TOLD_EXCEPTIONS):
        if not waiting:
            return
        how, one = waiting.popleft()
        if how:
            yield f"\n{how}:\n"
        yield from _stack(one)
        yield f"{type(one).__name__}: {_storable(one, cut)}"
        yield from _told_notes(one)
        for other in islice(_others(one), TOLD_EXCEPTIONS):
            if id(other) not in seen:
                seen.add(id(other))
                waiting.append((_relation(one, other), other))
    if waiting:
        yield "\n… (more exceptions) …"


def _stack(fault: BaseException) -> Iterator[str]:
    """Yield the lines of where `fault` was raised: of a long way, its beginning and its end."""
    trace = fault.__traceback__
    if trace is None:
        return
    yield "Traceback (most recent call last):"
    left_out = sum(1 for _ in _frames(fault)) - TOLD_FIRST_FRAMES - TOLD_LAST_FRAMES
    if left_out <= 0:
        yield "".join(traceback.format_tb(trace)).rstrip()
        return
    yield "".join(traceback.format_tb(trace, TOLD_FIRST_FRAMES)).rstrip()
    yield f"  … ({left_out} frames) …"
    yield "".join(traceback.format_tb(trace, -TOLD_LAST_FRAMES)).rstrip()


def _told_notes(fault: BaseException) -> Iterator[str]:
    notes = _notes(fault)
    yield from [_storable(note, cut) for note in notes[:TOLD_NOTES]]
    if len(notes) > TOLD_NOTES:
        yield f"… ({len(notes) - TOLD_NOTES} notes) …"


def _frames(fault: BaseException) -> Iterator[TracebackType]:
    at = fault.__traceback__
    while at is not None:
        yield at
        at = at.tb_next


def _notes(fault: BaseException) -> Sequence[object]:
    notes = getattr(fault, "__notes__", None)
    return notes if isinstance(notes, list | tuple) else ()


def _texts(fault: BaseException) -> Iterator[object]:
    yield str(fault)
    yield from _notes(fault)
    if isinstance(fault, SyntaxError):  # the line that it is about
        yield fault.text or ""


def _is_short(text: object) -> bool:
    return isinstance(text, str) and len(text) <= MAX_CHARS


def _others(fault: BaseException) -> Iterator[BaseException]:
    """Yield those that `traceback` writes with this one."""
    if fault.__cause__ is not None:
        yield fault.__cause__
    elif fault.__context__ is not None and not fault.__suppress_context__:
        yield fault.__context__
    if isinstance(fault, BaseExceptionGroup):
        yield from fault.exceptions


def _relation(one: BaseException, other: BaseException) -> str:
    if other is one.__cause__:
        return f"{type(one).__name__} was caused by"
    return f"{type(one).__name__} was raised while handling" if other is one.__context__ else f"{type(one).__name__} holds"
