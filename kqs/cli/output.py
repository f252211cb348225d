"""What commands print: tables for people, JSON lines for programs. Nothing of a job's text reaches the terminal raw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from kqs.printable import printable, printable_json

#: what an overview shows of a text that may have thousands of characters
BRIEF_CHARS = 100


def print_line(value: Any) -> None:
    """Print a value, or JSON that is `Raw`, as one line of JSON."""
    click.echo(printable_json(msgspec.json.format(msgspec.json.encode(value), indent=-1).decode()))


def print_pretty(value: Any) -> None:
    """Print a value, or JSON that is `Raw`, as indented JSON."""
    click.echo(printable_json(msgspec.json.format(msgspec.json.encode(value), indent=2).decode()))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[str] = ()) -> None:
    """Print rows under their headings. numbers: headings of the columns that are flush right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in headings:
        right = heading in numbers
        table.add_column(printable(heading), justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row in rows:
        table.add_row(*map(shown, row))
    _print(table)


def print_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values in two columns."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(printable(name), shown(value))
    _print(table)


def _print(table: Any) -> None:
    from rich.console import Console

    # into a file or pipe nothing is folded: whoever reads it there has no width
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, emoji=False, highlight=False, width=10_000)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def shown(value: object) -> str:
    """Return a cell's text; that of JSON which is `Raw` is the JSON as it stands, since no number of ours may hold it."""
    if isinstance(value, msgspec.Raw):
        text = bytes(value).decode(errors="replace")
        return "-" if text == "null" else printable(text)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    if isinstance(value, str):
        return printable(value)
    return printable(msgspec.json.encode(value).decode())


def brief(text: str | None) -> str | None:
    """Return the beginning of a text's first line, with an ellipsis where more was cut off: a line of an overview is one."""
    if text is None:
        return None
    first, *more = text.strip().splitlines() or [""]
    return f"{first[:BRIEF_CHARS]}…" if more or len(first) > BRIEF_CHARS else first


def shown_time(at: float | None) -> str | None:
    """Return Unix seconds as local time, to the second; as they stand where the calendar ends before."""
    if at is None:
        return None
    try:
        return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # of a job that was accepted when numbers had no bounds
        return f"{at:g} s"
