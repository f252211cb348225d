"""`kqs events`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click
import msgspec

from kqs.cli.arguments import json_option, server_option
from kqs.queue.events import Word

if TYPE_CHECKING:
    from kqs.client import Address, Client

#: how long to wait before a server that stops is asked again, in s
AGAIN_S = 0.5

_WORDS = [word.value for word in Word]

_decode = msgspec.json.Decoder().decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@click.command("events")
@click.option("--type", "types", multiple=True, help="Only jobs of this type; may be repeated.")
@click.option(
    "--event",
    "words",
    metavar="EVENT",
    multiple=True,
    type=click.Choice(_WORDS),
    help=f"Only this; may be repeated. {', '.join(_WORDS[:-1])} or {_WORDS[-1]}.",
)
@click.option("--follow", "-f", is_flag=True, help="When the server stops or is lost, wait for it and go on.")
@json_option
@server_option
def events_command(types: tuple[str, ...], words: tuple[str, ...], follow: bool, as_lines: bool, server: Address) -> None:
    """Show what happens to jobs from now on, a line an event, until the server stops.

    With --json each has all that is known of it. What happens while there is no connection is not shown.
    """
    from kqs.cli.connection import with_client

    wanted: dict[str, Any] = {"types": list(types) or None, "events": list(words) or None}

    async def work(client: Client) -> None:
        while await _show(client, wanted, follow, as_lines):
            pass

    with_client(server, work)


async def _show(client: Client, wanted: dict[str, Any], follow: bool, as_lines: bool) -> bool:
    """Show events until there are no more; tell whether to ask again."""
    from kqs.cli.exits import say
    from kqs.cli.output import print_line
    from kqs.client import ConnectionLostError
    from kqs.errors import CallError

    show = print_line if as_lines else _print_event
    try:
        async with client.events(**wanted) as events:
            while True:
                show(await events.take())
    except StopAsyncIteration:
        if not follow:
            return False
        say("the server stopped; waiting for it")
    except ConnectionLostError as lost:
        if not follow:
            raise
        say(f"{lost}; trying again")
    except CallError as refused:
        if not follow or refused.call_code != "draining":
            raise
    await asyncio.sleep(AGAIN_S)
    return True


def _print_event(raw: msgspec.Raw) -> None:
    """Print an event as a line for people; what a client or handler made stays as it is written."""
    from kqs.cli.output import brief, shown, shown_time

    event = _decode_fields(raw)
    if "skipped" in event:
        count = _decode(event["skipped"])
        click.echo(f"{count:,} event{' was' if count == 1 else 's were'} skipped")
        return
    at, word = shown_time(_decode(event["at"])), _decode(event["event"])
    if "worker" in event:
        count = _decode(event["runs"])
        rest = [_decode(event["worker"]) or "a server", f"{count:,} run{'' if count == 1 else 's'}"]
    else:
        attempt = _decode(event["attempt"])
        rest = [_decode(event["id"]), _decode(event["type"]) or "-", f"attempt {attempt}" if attempt else ""]
        if "job" in event:
            rest.append(brief(_decode(_decode_fields(event["job"])["error"])) or "")
    click.echo("  ".join([shown(at), f"{word:<11}", *map(shown, rest)]).rstrip())
