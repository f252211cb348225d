"""`kqs configure`: what jobs get that say nothing themselves, by call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from kqs.cli.arguments import json_option, server_option
from kqs.cli.insert import FIELDS, SpeltOutCommand, field_options
from kqs.options import OptionFields

if TYPE_CHECKING:
    from kqs.client import Address

_OPTIONS = OptionFields.__struct_fields__


@click.command("configure", cls=SpeltOutCommand)
@click.argument("type_", metavar="[TYPE]", required=False)
@field_options(without=FIELDS.keys() - set(_OPTIONS), wait="Seconds that the insert of one job waits for its end.")
@click.option(
    "--take-back",
    type=click.Choice(_OPTIONS),
    metavar="OPTION",
    multiple=True,
    help="Take back what calls have said of this option, as ttr; may be given again.",
)
@click.option("--reset", is_flag=True, help="Take back all that calls have said: the configuration's options hold again.")
@json_option
@server_option
def configure_command(
    type_: str | None, *, take_back: tuple[str, ...], reset: bool, as_lines: bool, server: Address, **fields: Any
) -> None:
    """Set what jobs of TYPE, or of all types, get that say nothing themselves; without options, show it.

    It stands above the server's configuration, for all servers of the store and over restarts, until it is taken back. Options
    that are set so are shown with a star.
    """
    from kqs.cli.connection import call
    from kqs.cli.output import plainly, print_line, print_pairs

    named = {name: value for name, value in fields.items() if value is not None}
    if both := sorted(named.keys() & set(take_back)):
        raise click.UsageError(f"{both[0]} is given and taken back, expected one of them")
    named |= dict.fromkeys(take_back)
    asked: dict[str, Any] = {} if type_ is None else {"type": type_}
    if named:
        asked["options"] = named
    if reset:
        asked["reset"] = True
    result = call(server, "configure", msgspec.json.encode(asked))
    if as_lines:
        print_line(result)
        return
    answer = msgspec.json.decode(result)
    by_call = answer["by_call"]
    print_pairs((f"{name} *" if name in by_call else name, plainly(value)) for name, value in answer["options"].items())
