"""`kqs call`, `kqs stats` and `kqs health`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from kqs.cli.arguments import SecondsWithin, as_json, json_option, server_option
from kqs.errors import ExitCode

if TYPE_CHECKING:
    from kqs.client import Address


@click.command("call")
@click.argument("name")
@click.argument("json", required=False)
@click.option("--timeout", "timeout_s", type=SecondsWithin(), help="Seconds to wait for the answer, above 0. Default: 30.")
@json_option
@server_option
def call_command(name: str, json: str | None, timeout_s: float | None, as_lines: bool, server: Address) -> None:
    """Call NAME with an argument and print the result.

    JSON may be JSON5 ({type:"ping"}); other text is sent as a string, unless it begins as JSON does. `kqs call help` lists
    the calls.
    """
    from kqs.cli.connection import call
    from kqs.cli.output import print_line, print_pretty

    result = call(server, name, as_json(json) if json is not None else b"null", timeout_s)
    (print_line if as_lines else print_pretty)(result)


@click.command("stats")
@json_option
@server_option
def stats_command(as_lines: bool, server: Address) -> None:
    """Show what the server counts."""
    from kqs.cli.connection import call
    from kqs.cli.output import plainly, print_line, print_table

    result = call(server, "stats")
    if as_lines:
        print_line(result)
    else:
        found = msgspec.json.decode(result).items()
        rows = [(name, plainly(value) if _is_of_a_process(name) else value) for name, value in found]
        print_table(("name", "value"), rows, numbers=("value",))


def _is_of_a_process(name: str) -> bool:
    """Tell whether a number of `stats` is the id of a process, and no count."""
    return name in ("pid", "process") or name.endswith("_pid")


@click.command("health")
@json_option
@server_option
def health_command(as_lines: bool, server: Address) -> ExitCode:
    """Show whether all is well, and what is not; exit 1 if it is not."""
    from kqs.cli.connection import call
    from kqs.cli.output import print_line, print_table

    result = call(server, "health")
    health = msgspec.json.decode(result)
    if as_lines:
        print_line(result)
    else:
        told = [(name, text) for name in ("problems", "notes") for text in health.get(name, ())]
        print_table(("health", health["verdict"]), [(name.removesuffix("s"), text) for name, text in told])
    return ExitCode.OK if health["ok"] else ExitCode.REFUSED
