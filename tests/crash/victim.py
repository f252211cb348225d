"""What those share who kill a server under load: the server, started again where it was, and the wait until all has ended."""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.support.asking import ask, eventually
from tests.support.serving import Served, serving

DRAIN_WITHIN_S = 120


class Victim:
    """A server that is started again in the folder of its journal, on another port."""

    def __init__(self, folder: Path, handlers: str, settings: dict[str, str]) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "victims_handlers.py").write_text(handlers)
        self.folder = folder
        self._settings = {
            "WORKER__MODULES": '["victims_handlers"]',
            "LOG__LEVEL": "warning",
            "JOURNAL__MIN_FREE_BYTES": "0",
            **settings,
        }
        self._stack = ExitStack()
        self.served: Served

    def start(self) -> None:
        self.served = self._stack.enter_context(serving(self.folder, **self._settings))

    def kill(self) -> None:
        self.served.stop(signal.SIGKILL)
        self.close()

    def close(self) -> None:
        self._stack.close()


def unfinished_by_stats(servers: Sequence[Served]) -> int:
    """Return how many jobs wait or run, where one server says so of all."""
    stats = ask(servers[0], "stats")
    return sum(stats[f"jobs_{state}"] for state in ("new", "delayed", "processing", "retry", "ghost"))


def drain(servers: Sequence[Served], unfinished: Callable[[Sequence[Served]], int]) -> None:
    """Wait until nothing waits any more; the only wait without an event, since the wire has none to offer."""
    eventually(
        lambda: sum(ask(server, "stats")["journal_unfed_records"] for server in servers) or unfinished(servers),
        lambda left: left == 0,
        DRAIN_WITHIN_S,
        "all fed and ended",
    )


def play(kill: Callable[[Path, int, int], str]) -> None:
    """Be a program that kills so often as its argument says. kill: given a folder, the number and a seed; returns what was."""
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        seed = random.SystemRandom().randrange(2**32)
        print(f"seed {seed}", flush=True)
        told = kill(Path(name), int(sys.argv[1]), seed)
        print(f"{time.monotonic() - began:.0f} s: {told}")
