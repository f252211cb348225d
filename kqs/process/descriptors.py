"""Standard input, output and error that are there, and as many other descriptors as may be.

A process may be started with some of the first closed. The next file or socket it opens would get such a number: what is
printed would go there, and libuv ends a process that closes one.
"""

from __future__ import annotations

import io
import os
import resource
import sys
from contextlib import ExitStack, suppress

_NAMES = ("stdin", "stdout", "stderr")


def open_standard_descriptors() -> None:
    """Open /dev/null in place of each that is closed. Call before anything else opens a file."""
    for number, name in enumerate(_NAMES):
        if is_open(number):
            continue
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            stream = open(number, "r" if number == 0 else "w", closefd=False)  # noqa: SIM115 - it lives as long as we
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def print_whole_lines() -> None:
    """Have what is printed written as its line ends, in one piece, whether or not Python was told to buffer.

    Log lines go the same way from a thread of their own: unbuffered (`PYTHONUNBUFFERED`, as services have it), `print` writes
    each of its arguments by itself, and they would fall between; buffered, a line would stay until the process ends.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, write_through=False)


def is_open(number: int) -> bool:
    """Tell whether a descriptor is open, whatever stands there."""
    with suppress(OSError):
        os.fstat(number)
        return True
    return False


def need_files(count: int) -> None:
    """Find out whether so many more files can be opened. Raises: OSError: they cannot."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.callback(os.close, os.dup(0))


def allow_files() -> int:
    """Allow this process as many open files as it may have; return how many. Commands that it starts find the usual number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            return hard
    return soft
