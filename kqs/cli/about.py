"""`kqs version` and `kqs completion`."""

from __future__ import annotations

import click

import kqs
from kqs.cli.arguments import json_option


@click.command("version")
@json_option
def version_command(as_lines: bool) -> None:
    """Print the version."""
    if as_lines:
        from kqs.cli.output import print_line

        print_line({"version": kqs.__version__})
    else:
        click.echo(f"kqs {kqs.__version__}")


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print a script that completes kqs in SHELL.

    \b
    bash: kqs completion bash > ~/.local/share/bash-completion/completions/kqs
    zsh:  kqs completion zsh > a folder of $fpath, as _kqs
    fish: kqs completion fish > ~/.config/fish/completions/kqs.fish
    """
    from click.shell_completion import get_completion_class

    from kqs.cli import cli

    completion = get_completion_class(shell)
    assert completion is not None
    click.echo(completion(cli, {}, "kqs", "_KQS_COMPLETE").source())
