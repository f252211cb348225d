"""What the figures are made with: the C programs, a server on its own core, and looks at that server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.mortal import mortal
from tests.support.serving import ROOT, SERVE, SERVE_ENVIRON, Served, free_port, serving

HERE = Path(__file__).parent
BINARIES = HERE / "bin"
COMPILE = ("-O2", "-Wall", "-Wextra", "-Werror")
#: not the last: that is where a virtual disk's interrupts go, and the server waits for the disk
LOAD_CORE = min(os.sched_getaffinity(0))
KIB_PER_MB = 1000 * 1000 / 1024
#: between two looks at what is waited for, in s
LOOK_S = 0.02

Figure = dict[str, float]


def compile_programs() -> None:
    """Build bench/*.c into bench/bin where they are newer. Ends the program where there is no compiler."""
    if shutil.which("gcc") is None:
        raise SystemExit("the load generator is in C: install gcc")
    BINARIES.mkdir(exist_ok=True)
    for source in HERE.glob("*.c"):
        binary = BINARIES / source.stem
        if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["gcc", *COMPILE, "-o", binary, source], check=True)


def run(program: str, *arguments: object, cores: str = "") -> Figure:
    """Run one of bench/*.c, on `cores` if it does not choose its own; return the JSON object it prints."""
    taskset = ("taskset", "--cpu-list", cores) if cores else ()
    argv = [*taskset, str(BINARIES / program), *map(str, arguments)]
    done = subprocess.run(mortal(argv), stdout=subprocess.PIPE, check=True, timeout=900)
    figure: Figure = json.loads(done.stdout)
    return figure


def load(
    mode: str, port: int, *, connections: int, in_flight: int, total: int, size_bytes: int, type_: str = "-", rate: float = 0
) -> Figure:
    """Run bench/load.c. in_flight: counts per connection. rate: calls a second in all, at most; 0 for no most."""
    return run("load", mode, port, connections, in_flight, total, size_bytes, LOAD_CORE, type_, rate)


def bare_fsync(folder: Path, cores: str, count: int, size_bytes: int, how: str) -> Figure:
    """Run bench/bare_fsync.c. how: `append` to a file that grows, or `allocated` before."""
    return run("bare_fsync", folder, count, size_bytes, how, cores=cores)


@contextmanager
def bare_server(folder: Path, stamps: Path, cores: str) -> Iterator[int]:
    """Run bench/bare_server.c for one client; give its port."""
    argv = ["taskset", "--cpu-list", cores, str(BINARIES / "bare_server"), str(folder), str(stamps)]
    with subprocess.Popen(mortal(argv), stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


def broker_puts(port: int, total: int, in_flight: int, size_bytes: int) -> Figure:
    """Run bench/puts.py, on the core that bench/load.c has."""
    argv = [sys.executable, "-m", "bench.puts", *map(str, (port, total, in_flight, size_bytes, LOAD_CORE))]
    done = subprocess.run(mortal(argv), stdout=subprocess.PIPE, check=True, timeout=900, cwd=HERE.parent)
    figure: Figure = json.loads(done.stdout)
    return figure


class Subject:
    """The server that is measured."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.port = served.port

    def stats(self) -> dict[str, float]:
        """Return what `stats` answers."""
        (line,) = self.served.ask('{"n":"stats"}')
        answer: dict[str, Any] = json.loads(line)
        stats: dict[str, float] = answer["m"]
        return stats

    def rss_mb(self) -> float:
        """Return its resident memory in MB (10^6 bytes)."""
        status = Path(f"/proc/{self.served.process.pid}/status").read_text()
        return round(int(status.partition("VmRSS:")[2].split()[0]) / KIB_PER_MB, 1)

    def cpu_s(self) -> float:
        """Return the CPU time it has used, all its threads, in s."""
        fields = Path(f"/proc/{self.served.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wait(self, reached: Callable[[dict[str, float]], bool], limit_s: float = 300, every_s: float = LOOK_S) -> float:
        """Ask for `stats` until `reached`; return time.monotonic() then. Raises TimeoutError."""
        deadline = time.monotonic() + limit_s
        while not reached(self.stats()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not reached in {limit_s} s: {self.stats()}")
            time.sleep(every_s)
        return time.monotonic()

    def wait_stored(self) -> float:
        """Wait until the store has everything that was journaled; return time.monotonic() then."""
        return self.wait(lambda stats: stats["journal_unfed_records"] == 0)


@contextmanager
def subject(folder: Path, cores: str, modules: tuple[str, ...] = ("kqs.builtin",), **environ: str) -> Iterator[Subject]:
    """Run a server whose journal is in `folder`, on `cores` (as taskset counts them), as long as the block lasts."""
    command = ("taskset", "--cpu-list", cores, *SERVE)
    # as installed: bytecode is kept, in a folder of the measurements'
    environ = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(ROOT / ".cache/bytecode"), **environ}
    settings = {"WORKER__MODULES": json.dumps(modules), "LOG__LEVEL": "warning"}
    with serving(folder, command, SERVE_ENVIRON | environ, **settings) as served:
        yield Subject(served)


@contextmanager
def beanstalkd(cores: str, *options: object) -> Iterator[int]:
    """Run beanstalkd with these options; give its port. Raises FileNotFoundError where it is not installed."""
    program = shutil.which("beanstalkd")
    if program is None:
        raise FileNotFoundError("beanstalkd is not installed")
    port = free_port()
    argv = ["taskset", "--cpu-list", cores, program, "-l", "127.0.0.1", "-p", str(port), *map(str, options)]
    process = subprocess.Popen(mortal(argv))
    try:
        _await_port(port)
        yield port
    finally:
        process.kill()
        process.wait()


def _await_port(port: int, limit_s: float = 10) -> None:
    deadline = time.monotonic() + limit_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOK_S)
        else:
            return
