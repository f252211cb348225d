"""How far long work has come: a bar on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Where progress is shown."""

    def advance(self, size_bytes: int) -> None:
        """Say that so many bytes more are done."""
        ...


class _NoProgress:
    def advance(self, size_bytes: int) -> None:
        pass


@contextmanager
def shown_progress(what: str, total_bytes: int, wanted: bool | None = None) -> Iterator[Progress]:
    """Show a bar, which goes when the work ends, if it is wanted; None: if stderr is a terminal."""
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield _NoProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    from kqs.cli.ending import ended_in_order

    console = Console(stderr=True, force_terminal=True if wanted else None)
    bars = Bars(what, BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=console, transient=True)
    with ended_in_order(), bars:
        task = bars.add_task(what, total=total_bytes)

        class Bar:
            def advance(self, size_bytes: int) -> None:
                bars.advance(task, size_bytes)

        yield Bar()
