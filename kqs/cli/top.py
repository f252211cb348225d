"""`kqs top`."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from kqs.cli.arguments import SecondsWithin, server_option

if TYPE_CHECKING:
    from rich.console import Console

    from kqs.cli.topframe import Look
    from kqs.client import Address, Client

#: types that are looked at, by name: one call's worth
_MOST_TYPES = 1000
#: how long an answer may take before the screen says so, in s
_PATIENCE_S = 5.0
#: columns and lines of what is read elsewhere than on a screen
_ENDLESS = 10_000


@click.command("top")
@click.option(
    "--interval",
    "interval_s",
    type=SecondsWithin(3600, least=0.2),
    default=1.0,
    show_default=True,
    help="Seconds from one look to the next.",
)
@click.option("--once", is_flag=True, help="Look for one interval, print that and end; so it is where stdout is no terminal.")
@server_option
def top_command(interval_s: float, *, once: bool, server: Address) -> None:
    """Watch a server: its types, their rates and ages, and who runs jobs. Ctrl-C ends it."""
    from rich.console import Console

    from kqs.cli.connection import with_client
    from kqs.cli.ending import ended_in_order

    console = Console(markup=False, emoji=False, highlight=False)
    if once or not console.is_terminal:
        with_client(server, lambda client: _show_once(client, console, interval_s))
    else:
        with suppress(KeyboardInterrupt), ended_in_order():
            with_client(server, lambda client: _watch(client, console, interval_s), timeout_s=_PATIENCE_S)


async def _show_once(client: Client, console: Console, interval_s: float) -> None:
    from kqs.cli.topframe import frame

    before = await _look(client)
    await asyncio.sleep(interval_s)
    look = await _look(client)
    paper = _paper(console.width if console.is_terminal else _ENDLESS, _ENDLESS)
    for line in frame(str(client.address), time.time(), look, before, None, paper):
        click.echo(line)


def _paper(width: int, height: int) -> Console:
    """Return what lines are made for: as wide and high as a screen, without its colours."""
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, color_system=None, width=width, height=height)


async def _watch(client: Client, console: Console, interval_s: float) -> None:
    """Show one look after another, over and over. A server that does not answer is asked again."""
    from rich.live import Live
    from rich.text import Text

    from kqs.cli.topframe import frame
    from kqs.errors import KqsError

    look = before = await _look(client)
    fault: str | None = None
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            paper = _paper(console.width, console.height)  # each time, for it may be another
            live.update(Text("\n".join(frame(str(client.address), time.time(), look, before, fault, paper))), refresh=True)
            await asyncio.sleep(interval_s)
            try:
                before, look = look, await _look(client)
            except KqsError as error:
                fault = str(error)
            else:
                fault = None


async def _look(client: Client) -> Look:
    from kqs.cli.topframe import Look

    calls: list[tuple[str, Any]] = [("stats", None), ("health", None), ("types", {"limit": _MOST_TYPES}), ("workers", None)]
    stats, health, types, workers = await asyncio.gather(*[client.call(name, argument) for name, argument in calls])
    return Look(time.monotonic(), stats, health, types, workers)
