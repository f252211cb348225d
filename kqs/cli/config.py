"""`kqs config`: what the configuration says."""

from __future__ import annotations

import os
from pathlib import Path

import click
import msgspec

from kqs.cli.arguments import json_option
from kqs.cli.grouping import Group


@click.group("config", cls=Group)
def config_command() -> None:
    """Check and show the configuration of a server."""


@config_command.command("show")
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    help="TOML file of settings. Default: as `kqs serve` finds it.",
)
@json_option
def show_command(path: Path | None, as_lines: bool) -> None:
    """Show what the file and the environment set, and where each comes from; all else is at its default.

    What calls have said of options at run time stands above it: `kqs configure`. Logins in addresses are left out.
    """
    from kqs.cli.exits import say
    from kqs.cli.output import print_line
    from kqs.config import settings_in, slips_in
    from kqs.words.logins import without_login
    from kqs.words.printable import printable

    for variable, meant in slips_in(os.environ):
        say(f"environment {variable} sets nothing, expected {meant}")
    for setting in settings_in(path, os.environ):
        name, value = ".".join(setting.key), setting.value
        if isinstance(value, str):
            value = without_login(value)
        if as_lines:
            print_line({"setting": name, "value": value, "from": setting.origin})
        else:
            text = msgspec.json.encode(value, enc_hook=str).decode()
            click.echo(printable(f"{name} = {text}  # {setting.origin}"))
