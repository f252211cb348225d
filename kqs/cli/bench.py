"""`kqs bench`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click
from click.core import ParameterSource

import kqs
from kqs.cli.arguments import WholeNumber, json_option, server_option
from kqs.cli.ending import ended_in_order
from kqs.cli.exits import say
from kqs.errors import ExitCode, StartupError

if TYPE_CHECKING:
    from kqs.cli.measures import Figure
    from kqs.client import Address

#: measure -> (how often by default, what it does)
MEASURES = {
    "echo": (100_000, "echo calls on one connection"),
    "insert": (100_000, "flushed inserts that nobody runs"),
    "run": (50_000, "jobs from insert to stored finish"),
    "latency": (200, "one job at a time"),
}
#: how long the server of a measure may take to stop, in s
_STOP_WITHIN_S = 30


@click.command("bench")
@click.argument("measures", nargs=-1, type=click.Choice(list(MEASURES)))
@click.option("--count", type=WholeNumber(8), help="Calls or jobs of each measure, at least 8.")
@click.option("--own/--no-own", default=True, show_default=True, help="Start a server of its own in a temporary folder.")
@json_option
@server_option
@click.pass_context
def bench_command(
    ctx: click.Context, measures: tuple[str, ...], count: int | None, own: bool, as_lines: bool, server: Address
) -> None:
    """Measure a server over TCP with one Python process as its clients.

    By default a server is started for it in a temporary folder ($TMPDIR chooses the disk). With --no-own the one at --server
    is measured: `insert` leaves its jobs there, of type kqs-bench, and `run` and `latency` want it idle.
    """
    from kqs.cli.output import print_line, print_table

    if own and ctx.get_parameter_source("server") is ParameterSource.COMMANDLINE:  # of $KQS_SERVER it need not be meant
        raise click.UsageError("--server belongs to --no-own: a server of its own would be measured")
    figures: list[Figure] = []
    with _own_server() if own else _given(server) as address:
        for measure in measures or MEASURES:
            if not as_lines and sys.stderr.isatty():
                say(f"measuring {measure}: {MEASURES[measure][1]}")
            found = _measure(measure, address, count or MEASURES[measure][0])
            figures += found
            if as_lines:
                for figure in found:
                    print_line(figure)
    if not as_lines:
        print_table(
            ("measure", "value", "unit", "what"), [(f.name, _rounded(f.value), f.unit, f.detail) for f in figures], ("value",)
        )


def _measure(name: str, server: Address, count: int) -> list[Figure]:
    import asyncio

    import uvloop

    from kqs.cli import measures

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(getattr(measures, name)(server, count))


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3f}"


@contextmanager
def _given(server: Address) -> Iterator[Address]:
    yield server


@contextmanager
def _own_server() -> Iterator[Address]:
    """Run `kqs serve` with default settings on a free port; stop it and drop its folder afterwards."""
    from kqs.client import Address

    settings = {"KQS_CONFIG": os.devnull, "KQS_SERVER__HOST": "127.0.0.1", "KQS_SERVER__PORT": "0", "KQS_LOG__FORMAT": "json"}
    environ = {name: value for name, value in os.environ.items() if not name.startswith("KQS_")} | settings
    # the server runs in another folder, and is to be this same kqs
    environ["PYTHONPATH"] = os.pathsep.join([str(Path(kqs.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-P", "-m", "kqs", "serve"]
    with (
        ended_in_order(),
        tempfile.TemporaryDirectory(prefix="kqs-bench-") as folder,
        subprocess.Popen(  # noqa: S603 - a command of ours
            command,
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stderr is not None
        # a full pipe would stop the server
        drain = threading.Thread(target=process.stderr.read, name="bench-server-log")
        try:
            port = _port_told(process.stderr)
            drain.start()
            yield Address("127.0.0.1", port)
        finally:
            _stop(process)
            if drain.ident is not None:
                drain.join()


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_WITHIN_S)
    finally:
        process.kill()


def _port_told(log: IO[str]) -> int:
    """Return the port that the server's log tells. Raises: StartupError: the log ended before that."""
    last = ""
    for line in log:
        last = line.strip()
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "listening":
            return int(event["port"])
    raise StartupError(f"the server for the measurement did not start: {last}", ExitCode.UNAVAILABLE)
