"""The `kqs` command. Each family of commands is a module of its own, imported when one of its commands is asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence

import click

from kqs import __version__
from kqs.cli.grouping import Group
from kqs.process.descriptors import open_standard_descriptors

#: command -> module that has it, under the command's own name or with `_command` at its end
COMMANDS = {
    "serve": "serve",
    "work": "work",
    "insert": "insert",
    "batch": "batching",
    "call": "calls",
    "stats": "calls",
    "health": "calls",
    "jobs": "jobs",
    "job": "jobs",
    "cancel": "owning",
    "retry": "owning",
    "delete": "owning",
    "purge": "owning",
    "suspend": "owning",
    "resume": "owning",
    "schedules": "schedules",
    "schedule": "schedules",
    "unschedule": "schedules",
    "fire": "schedules",
    "limit": "limiting",
    "configure": "configuring",
    "subscribe": "owning",
    "unsubscribe": "owning",
    "explain": "views",
    "types": "views",
    "workers": "views",
    "top": "top",
    "events": "events",
    "config": "config",
    "makerpc": "makerpc",
    "journal": "journal",
    "bench": "bench",
    "conformance": "conformance",
    "version": "about",
    "completion": "about",
}


class LazyGroup(Group):
    """A group whose commands are imported when they are needed, so that `kqs makerpc` starts at once."""

    def __init__(self, modules: Mapping[str, str], help: str, epilog: str) -> None:  # noqa: A002 - click's own name for it
        super().__init__("kqs", help=help, epilog=epilog, context_settings={"help_option_names": ["-h", "--help"]})
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or None."""
        if cmd_name not in self._modules:
            return None
        module = importlib.import_module(f"kqs.cli.{self._modules[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or fail as for a setting or a field: with the nearest one that there is."""
        name = args[0]
        if name not in self._modules and not name.startswith("-") and not ctx.resilient_parsing:
            from kqs.words.nearest import unknown_name

            ctx.fail(unknown_name("command", name, self._modules))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command. A broken pipe or Ctrl-C ends it here, since click would make other codes of them."""
        try:
            result: object = super().invoke(ctx)
            sys.stdout.flush()
        except (BrokenPipeError, KeyboardInterrupt) as error:
            from kqs.cli.exits import exit_code_of

            raise click.exceptions.Exit(exit_code_of(error)) from None
        return result


cli = LazyGroup(
    COMMANDS,
    help="KQS: a durable job queue you talk to in lines of JSON.",
    epilog="Other options stand behind the command: kqs jobs --server HOST:PORT.",
)
click.version_option(__version__, prog_name="kqs", message="%(prog)s %(version)s")(cli)


def run(arguments: Sequence[str]) -> int:
    """Run one command; return its exit code. What went wrong is one line on stderr."""
    from kqs.cli.exits import exit_code_of

    try:
        code = cli.main(list(arguments), prog_name="kqs", standalone_mode=False)
    except Exception as error:
        return exit_code_of(error)
    return code if isinstance(code, int) else 0


def main() -> None:
    """Run the command of this process's arguments and exit."""
    open_standard_descriptors()
    sys.exit(run(sys.argv[1:]))


__all__ = ["cli", "main", "run"]
