"""Work in steps: what a long line asks for, cut so small that others can be served between two of them.

A function that works in steps is a generator: it yields when a step is done, and returns its result. One step takes a few ms
at most, but for a single pass of native code over the whole line. Who has a short line, or all the time, calls `finish`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

_T = TypeVar("_T")

Steps = Generator[None, None, _T]

#: jobs that are looked at, checked or answered in one step: 0.2 to 1 ms
JOBS_A_STEP = 1000


def finish(steps: Steps[_T]) -> _T:
    """Do all steps at once and return what they lead to. Raises: what they raise."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: _T = end.value
            return result
