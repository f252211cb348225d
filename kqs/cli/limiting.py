"""`kqs limit`: how many jobs of a type may run, or begin in a while."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from kqs.cli.arguments import Number, Seconds, json_option, server_option

if TYPE_CHECKING:
    from kqs.client import Address


@click.command("limit")
@click.argument("type_", metavar="TYPE")
@click.option("--concurrency", type=click.IntRange(0), help="Jobs of it that run at a time in each server.")
@click.option("--max-running", type=click.IntRange(0), help="Jobs of it that run at a time in all servers of the store.")
@click.option("--rate", type=Number(), help="Jobs of it that begin in --per-s seconds, in all servers of the store.")
@click.option("--per-s", type=Seconds(), help="Seconds that --rate counts in; as it was, if left out, and 1 at first.")
@click.option("--lift", type=click.Choice(("concurrency", "max-running", "rate")), multiple=True, help="Take this limit away.")
@click.option("--reset", is_flag=True, help="Take back what calls have said: the limits of the configuration hold again.")
@json_option
@server_option
def limit_command(type_: str, *, lift: tuple[str, ...], reset: bool, as_lines: bool, server: Address, **named: Any) -> None:
    """Limit the jobs of TYPE that run, or begin in a while; without options, show its limits."""
    from kqs.cli.connection import call
    from kqs.cli.output import print_line
    from kqs.words.printable import printable

    wanted = {name: value for name, value in named.items() if value is not None}
    lifted = {name.replace("-", "_"): None for name in lift}
    if both := sorted(wanted.keys() & lifted):
        raise click.UsageError(f"{both[0]} is given and lifted, expected one of them")
    wanted |= lifted
    if reset:
        wanted["reset"] = True
    if wanted:
        result: Any = call(server, "limit", msgspec.json.encode({"type": type_, **wanted}))
        limits = msgspec.json.decode(result)["limits"]
    else:
        rows = msgspec.json.decode(call(server, "types", msgspec.json.encode({"type": type_})))
        limits = rows[0]["limits"] if rows else {}
        result = msgspec.Raw(msgspec.json.encode({"type": type_, "limits": limits}))
    if as_lines:
        print_line(result)
        return
    words = in_words(limits) or "no limits"
    running = f"; {limits['running']:,} run here" if "running" in limits else ""
    click.echo(f"{printable(type_)}: {words}{running}{'; set by call' if limits.get('by_call') else ''}")


def in_words(limits: dict[str, Any]) -> str:
    """Return what bounds a type, in few words."""
    words = [
        f"{limits[name]:,} {what}" for name, what in (("concurrency", "a server"), ("max_running", "in all")) if name in limits
    ]
    if "rate" in limits:
        words.append(f"{limits['rate']:g} in {limits['per_s']:g} s")
    return ", ".join(words)
