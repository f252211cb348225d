"""Who is hunted: a server with lanes of its own, and workers of all kinds, each over a line that can be cut."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from tests.crash.hunt_account import CHILD, SERVER, HuntAccount, Told
from tests.support.asking import eventually
from tests.support.fleet import Line, line_to
from tests.support.serving import Served, free_port, serving
from tests.support.wire_worker import WireWorker
from tests.support.working import working

HOLDS_UP_TO_S = 1.5
ENDED_WITHIN_S = 30
HERE, AWAY = ("here",), ("away", "thread")
FAR, HELD = "far", "held"
TYPES = (*HERE, *AWAY, FAR, HELD)

HANDLERS = """
import asyncio, hashlib, os, random, time
import kqs

log = os.open("runs.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

def note(word, data, job):
    intact = hashlib.sha256(data["pad"].encode()).hexdigest() == data["sha"]
    os.write(log, f"{word} {data['key']} {job.attempt} {'intact' if intact else 'ALTERED'}\\n".encode())

@kqs.handler("here")
@kqs.handler("away")
async def run(data, job):
    note("began", data, job)
    if random.random() < 0.3:
        await asyncio.sleep(random.uniform(0, 0.2))
    note("ended", data, job)

@kqs.handler("thread")
def run_in_thread(data, job):
    note("began", data, job)
    if random.random() < 0.3:
        time.sleep(random.uniform(0, 0.1))
    note("ended", data, job)
"""


class Wired(threading.Thread):
    """A worker over the wire, which comes back whenever its connection is lost."""

    def __init__(self, name: str, account: HuntAccount, line: Line, log: Path, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self._account = account
        self._line = line
        self._log = log.open("ab", buffering=0)
        self._rng = random.Random(seed)
        self._is_over = False

    def run(self) -> None:
        while not self._is_over:
            with suppress(OSError, EOFError):
                worker = WireWorker(self._line.port)
                try:
                    self._work(worker)
                finally:
                    worker.close()
            time.sleep(0.01)

    @abstractmethod
    def _work(self, worker: WireWorker) -> None:
        """Work over one connection until it is lost."""

    def stop(self) -> None:
        """End it, which has nothing in hand any more."""
        self._is_over = True
        self._line.refuse()
        self.join(ENDED_WITHIN_S)
        assert not self.is_alive()
        self._log.close()

    def _do(self, run: dict[str, Any]) -> None:
        for word in ("began", "ended"):
            self._log.write(f"{word} {run['data']['key']} {run['attempt']} intact\n".encode())

    def _report(self, worker: WireWorker, runs: Sequence[dict[str, Any]]) -> None:
        """Report that these went well, and note the answers."""
        answers = worker.finish(*(run["run"] for run in runs)) if runs else []
        for run, answer in zip(runs, answers, strict=True):
            self._account.told.append(Told(run["data"]["key"], run["attempt"], answer))


class Far(Wired):
    """Has a standing order; what it had in hand when its connection was lost it reports all the same, over the next."""

    def __init__(self, name: str, account: HuntAccount, line: Line, log: Path, seed: int) -> None:
        super().__init__(name, account, line, log, seed)
        self._in_hand: list[dict[str, Any]] = []
        self._reported: list[dict[str, Any]] = []

    def _work(self, worker: WireWorker) -> None:
        self._report_all(worker)
        self._report(worker, self._rng.sample(self._reported, min(20, len(self._reported))))
        standing = worker.send("work", {"types": [FAR], "room": 30, "worker": self.name})
        while (runs := worker.next(standing)) is not None:
            self._in_hand += runs
            for run in runs:
                self._do(run)
            if self._rng.random() < 0.3:
                time.sleep(self._rng.uniform(0, 0.2))
            self._report_all(worker)

    def _report_all(self, worker: WireWorker) -> None:
        self._report(worker, self._in_hand)
        self._reported += self._in_hand
        self._in_hand = []


class Holder(Wired):
    """Asks for some now and then, and holds them for a while, over connections and servers."""

    def __init__(self, name: str, account: HuntAccount, line: Line, log: Path, seed: int) -> None:
        super().__init__(name, account, line, log, seed)
        self._held: dict[str, tuple[float, dict[str, Any]]] = {}  # until when

    def _work(self, worker: WireWorker) -> None:
        while not self._is_over:
            if self._held:
                worker.call("touch", [{"run": token} for token in self._held])
            for run in worker.reserve(HELD, count=20, wait=0.3, worker=self.name, hold=True):
                self._held[run["run"]] = time.monotonic() + self._rng.uniform(0, HOLDS_UP_TO_S), run
                self._do(run)
            due = [run for until, run in self._held.values() if until < time.monotonic()]
            self._report(worker, due)
            for run in due:
                del self._held[run["run"]]


class Prey:
    """All of them. children: processes of the server's own worker; 0: it works in the server."""

    def __init__(self, folder: Path, account: HuntAccount, seed: int, children: int, stack: ExitStack) -> None:
        (folder / "prey.py").write_text(HANDLERS)
        self.log = folder / "runs.log"
        self.log.touch()
        self._folder = folder
        self._account = account
        self._settings = {
            "SERVER__PORT": str(free_port()),
            "WORKER__MODULES": '["prey"]',
            "WORKER__TYPES": json.dumps(HERE),
            "LOG__LEVEL": "warning",
            "JOURNAL__MIN_FREE_BYTES": "0",
        }
        if children:
            self._settings["WORKER__PROCESSES"] = str(children)
        self._children = children
        self._lines: dict[str, Line] = {}
        self._lives = {name: stack.enter_context(ExitStack()) for name in (SERVER, "work-0", "work-1")}
        self._alive: dict[str, Served] = {}
        self._start(SERVER)
        for name in (*self._lives.keys() - {SERVER}, FAR, HELD):
            self._lines[name] = stack.enter_context(line_to(int(self._settings["SERVER__PORT"])))
        for name in self._lives.keys() - {SERVER}:
            self._start(name)
        kinds: dict[str, type[Wired]] = {FAR: Far, HELD: Holder}
        self._wired = [kind(name, account, self._lines[name], self.log, seed) for name, kind in kinds.items()]
        for worker in self._wired:
            worker.start()
        account.names = frozenset(self._lines)

    @property
    def server(self) -> Served:
        return self._alive[SERVER]

    def strike(self, rng: random.Random) -> str:
        """Kill somebody, or cut somebody off; return who is to be started again, or nothing."""
        kinds = ["server", "work", "line", *(["child"] if self._children else [])]
        match rng.choice(kinds):
            case "server":
                return self._kill(SERVER)
            case "work":
                return self._kill(rng.choice(["work-0", "work-1"]))
            case "child" if self._kill_child(rng):
                pass
            case _:
                name = rng.choice(sorted(self._lines))
                with self._account.death_of(name):
                    self._lines[name].mend()
        return ""

    def _kill(self, name: str) -> str:
        children = self._pids_of_children() if name == SERVER else []
        with self._account.death_of(name):
            self._alive.pop(name).stop(signal.SIGKILL)
        for pid in children:
            eventually(Path(f"/proc/{pid}").exists, lambda lives: not lives, ENDED_WITHIN_S, "ended")
        self._lives[name].close()
        return name

    def _kill_child(self, rng: random.Random) -> bool:
        """Tell whether there was one to kill: they may just be started again."""
        children = self._pids_of_children()
        if children:
            with self._account.death_of(CHILD), suppress(ProcessLookupError):
                os.kill(rng.choice(children), signal.SIGKILL)
        return bool(children)

    def _pids_of_children(self) -> list[int]:
        pid = self.server.process.pid
        return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]

    def revive(self, name: str) -> None:
        """Start somebody again."""
        if name:
            self._start(name)

    def _start(self, name: str) -> None:
        if name == SERVER:
            life = serving(self._folder, **self._settings)
        else:
            types = ("--types", ",".join(AWAY), "--name", name, "--concurrency", "10", "--log-level", "warning")
            life = working(self._folder, None, "--connect", f"127.0.0.1:{self._lines[name].port}", *types, "prey")
        self._alive[name] = self._lives[name].enter_context(life)

    def stop(self) -> None:
        """End all in good order."""
        for worker in self._wired:
            worker.stop()
        for name in ("work-0", "work-1", SERVER):
            assert self._alive[name].stop() == 0
