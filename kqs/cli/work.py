"""`kqs work`."""

from __future__ import annotations

import os
import socket as sockets
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from kqs.cli.arguments import Seconds, server_option
from kqs.cli.serve import import_structlog_alone, uncollected
from kqs.options import WORKER_NAME_RULE, is_worker_name
from kqs.process.init import become_init
from kqs.words.printable import printable, shortened

if TYPE_CHECKING:
    from kqs.client import Address


class Grace(Seconds):
    """Seconds from 0, or -1."""

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or fail as click does."""
        number = super().convert(value, param, ctx)
        if number < 0 and number != -1:
            self.fail(f"expected seconds from 0, or -1 for as long as it takes, got {value}", param, ctx)
        return number


class Name(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """A name that the server takes."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, or fail as click does."""
        if not is_worker_name(value):
            self.fail(f"expected {WORKER_NAME_RULE}, got {printable(shortened(value))}", param, ctx)
        return value


@click.command("work")
@click.argument("modules", nargs=-1, metavar="[MODULE]…")
@partial(server_option, name="--connect")
@click.option("--socket", type=click.Path(), help="Path of the server's UNIX socket, in place of --connect.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="TOML file of settings, whose commands ([types.NAME] command) run here too. Nothing else in it counts.",
)
@click.option("--concurrency", type=click.IntRange(1, 100_000), default=100, show_default=True, help="Jobs that run at a time.")
@click.option("--types", multiple=True, help="Types whose jobs are run, with commas or repeated. Default: all with a handler.")
@click.option("--name", type=Name(), help="Who ran a job, in its record. Default: HOST:PID.")
@click.option("--hold", is_flag=True, help="Go on with runs while the server is away, and report them when it is back.")
@click.option(
    "--grace", "grace_s", type=Grace(), default=10, show_default=True, help="Seconds for runs to finish in a stop; -1: forever."
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    envvar="KQS_LOG__LEVEL",
    default="info",
    show_default=True,
    help="Least level written.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    envvar="KQS_LOG__FORMAT",
    default="text",
    show_default=True,
    help="Lines for people, or a JSON object a line.",
)
def work_command(
    modules: tuple[str, ...],
    server: Address,
    socket: str | None,
    config: Path | None,
    concurrency: int,
    types: tuple[str, ...],
    name: str | None,
    hold: bool,
    grace_s: float,
    log_level: Literal["debug", "info", "warning", "error"],
    log_format: Literal["text", "json"],
) -> int:
    """Run the jobs of a server with the handlers of Python modules, and with commands, until SIGTERM or Ctrl-C.

    A MODULE is found as `python -m` finds it. Without a server to reach it goes on trying.
    """
    if not modules and config is None:
        raise click.UsageError("expected a MODULE, or --config for commands: nothing says what is to run jobs")
    become_init()
    with uncollected():
        import_structlog_alone()
        from kqs.client import Address
        from kqs.config import Config, LogSection, WorkerSection, anchored, load_config
        from kqs.outpost.outpost import OutpostSettings, work

    path = socket or server.socket
    address = Address(socket=os.path.abspath(path)) if path else server  # noqa: PTH100 - handlers may change the folder
    section = WorkerSection(modules=list(modules), concurrency=concurrency, grace_s=float(grace_s))
    commands = anchored(load_config(config, os.environ), Path.cwd()) if config is not None else Config()
    settings = OutpostSettings(address, section, name or f"{sockets.gethostname()}:{os.getpid()}", types, hold, commands)
    return work(settings, LogSection(level=log_level, format=log_format))
