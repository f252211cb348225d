"""`kqs makerpc`."""

from __future__ import annotations

import time

import click
import msgspec

from kqs.cli.arguments import WholeNumber, as_json


@click.command("makerpc")
@click.argument("name")
@click.argument("json", required=False)
@click.option(
    "--id", "call_id", type=WholeNumber(), help="Number that the answer will carry. Default: microseconds since 1970."
)
def makerpc_command(name: str, json: str | None, call_id: int | None) -> None:
    """Print the line of a call, for netcat.

    \b
    kqs makerpc insert '{type:"ping",data:{a:1}}' | nc -N localhost 14151
    """
    from kqs.wire.calling import call_line

    number = call_id if call_id is not None else time.time_ns() // 1000
    click.echo(call_line(number, msgspec.json.encode(name), as_json(json) if json is not None else b"null"), nl=False)
