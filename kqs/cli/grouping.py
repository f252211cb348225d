"""A group of commands whose help tells the whole of each command's first sentence."""

from __future__ import annotations

import click

#: longer than any first sentence: click cuts them so that each takes one line
_WHOLE_CHARS = 1000


class Group(click.Group):
    """A click.Group that cuts no sentence off in its help, and folds long ones."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See click.Group."""
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        rows = [(name, command.get_short_help_str(_WHOLE_CHARS)) for name, command in commands if command is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
