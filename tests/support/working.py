"""A real `kqs work` in a process of its own, known to have started by its sd_notify message."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.serving import Served, serving

WORK = (sys.executable, "-m", "kqs", "work")


@contextmanager
def working(folder: Path, server: Served | None, *arguments: str) -> Iterator[Served]:
    """Run `kqs work` in `folder` until the block ends, whatever happens. It serves nothing: of `Served` its port means nothing.

    server: whose jobs it runs; None: as the arguments say.
    """
    connect = () if server is None else ("--connect", f"127.0.0.1:{server.port}")
    with serving(folder, (*WORK, *connect, *arguments)) as worker:
        yield worker
