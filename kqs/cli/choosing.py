"""Which jobs a command is about: options that make up a filter of docs/protocol.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from kqs.cli.arguments import Seconds
from kqs.states import STATES_BY_WORD

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])

#: the filter's fields, by the names that the options pass them under
_FIELDS = ("type", "state", "resource", "group", "older_than", "match")


def filter_options(command: AnyFunction) -> AnyFunction:
    """Give a command the options of a filter; `chosen` makes one of what they pass."""
    options = (
        click.option("--type", "type_", help="Only jobs of this type."),
        click.option(
            "--state",
            type=click.Choice(list(STATES_BY_WORD)),
            multiple=True,
            help="Only jobs in this state; repeated: in one of these.",
        ),
        click.option("--resource", help="Only jobs with this resource."),
        click.option("--group", help="Only jobs of this group."),
        click.option("--older-than", type=Seconds(), help="Only jobs accepted more than so many seconds ago."),
        click.option("--match", help="Only jobs in whose data, as JSON, this RE2 pattern is found."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def chosen(values: dict[str, Any]) -> dict[str, Any]:
    """Return the filter of the options in `values`, and take them out of it."""
    values["type"] = values.pop("type_")
    given = {name: values.pop(name) for name in _FIELDS}
    states = given["state"]
    given["state"] = (states[0] if len(states) == 1 else list(states)) if states else None
    return {name: value for name, value in given.items() if value is not None}
