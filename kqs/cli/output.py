"""What commands print: tables for people, JSON lines for programs. Nothing of a job's text reaches the terminal raw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from kqs.words.printable import printable, printable_json

if TYPE_CHECKING:
    from rich.console import Console

#: what an overview shows of a text that may have thousands of characters
BRIEF_CHARS = 100
#: the least that is left of a column that is cut, and what lies between two columns
CUT_CHARS = 12
GAP_CHARS = 3


def print_line(value: Any) -> None:
    """Print a value, or JSON that is `Raw`, as one line of JSON."""
    click.echo(printable_json(msgspec.json.format(msgspec.json.encode(value), indent=-1).decode()))


def print_pretty(value: Any) -> None:
    """Print a value, or JSON that is `Raw`, as indented JSON."""
    click.echo(printable_json(msgspec.json.format(msgspec.json.encode(value), indent=2).decode()))


def print_table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[str] = (), spare: Sequence[str] = ()
) -> None:
    """Print rows under their headings.

    Args: numbers: headings of the columns that are flush right. spare: of those that a narrow terminal goes without, the first
        to go first; the last column of all is cut there, if need be.
    """
    for line in table_lines(headings, rows, numbers, spare, _console()):
        click.echo(line)


def table_lines(
    headings: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[str], spare: Sequence[str], console: Console
) -> list[str]:
    """Return the lines of a table that fits a console, the heading two of them. Args: as for print_table."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    cells = [[shown(value) for value in row] for row in rows]
    if spare:
        headings, cells = _fitting(headings, cells, spare, console.width)
        count = _readable(headings, cells, numbers, console.width)
        headings, cells = headings[:count], [row[:count] for row in cells]
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in headings:
        right = heading in numbers
        table.add_column(printable(heading), justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row in cells:
        table.add_row(*row)
    return _lines(table, console)


def _fitting(
    headings: Sequence[str], rows: list[list[str]], spare: Sequence[str], width: int
) -> tuple[list[str], list[list[str]]]:
    """Return the columns that fit so many characters: all, but for as many of the `spare` ones as must go; the last one cut.

    Those go first in which no row has anything.
    """
    assert headings[-1] not in spare, "the last column is cut"
    columns = list(zip(headings, *rows, strict=True))
    widths = _widths(headings, rows)
    empty = {heading for heading, *column in columns if not any(cell != shown(None) for cell in column)}
    kept = list(range(len(headings) - 1))
    left = width - sum(widths[index] + GAP_CHARS for index in kept)
    for heading in sorted(spare, key=lambda heading: heading not in empty):
        if left >= min(widths[-1], CUT_CHARS):
            break
        index = headings.index(heading)
        kept.remove(index)
        left += widths[index] + GAP_CHARS
    most = max(left, CUT_CHARS)
    last = [_cut(row[-1], most) for row in rows]
    shown_rows = [[*(row[index] for index in kept), end] for row, end in zip(rows, last, strict=True)]
    return [*(headings[index] for index in kept), headings[-1]], shown_rows


def _readable(headings: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str], width: int) -> int:
    """Return how many columns, from the left, can be read in so many characters, though they are folded: one at least."""
    widths = _widths(headings, rows)
    left = width
    for count, (heading, wide) in enumerate(zip(headings, widths, strict=True)):
        left -= wide if heading in numbers else min(wide, CUT_CHARS)
        if left < 0:
            return max(count, 1)
        left -= GAP_CHARS
    return len(headings)


def _widths(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Return how much of a line each column takes; some characters take two places of it, and some none."""
    from rich.cells import cell_len

    return [max(map(cell_len, column)) for column in zip(headings, *rows, strict=True)]


def _cut(text: str, most: int) -> str:
    """Return a text that takes so many places of a line at most."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= most else f"{set_cell_size(text, most - 1)}…"


def print_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values in two columns."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(printable(name), shown(value))
    for line in _lines(table, _console()):
        click.echo(line)


def _console() -> Console:
    """Return stdout. Into a file or pipe nothing is folded or left out: whoever reads it there has no width."""
    from rich.console import Console

    console = Console(markup=False, emoji=False, highlight=False)
    if console.is_terminal:
        return console
    return Console(markup=False, emoji=False, highlight=False, width=10_000)


def _lines(table: Any, console: Console) -> list[str]:
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


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


def plainly(value: object) -> object:
    """Return what `shown` shows of a number so that it can be typed, or pasted into another command: nothing between digits."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return shown(value).replace(",", "") if is_number else value


def in_lines(name: str, text: str | None) -> list[tuple[str, str | None]]:
    """Return a text of several lines, a trace for one, as pairs to print: its lines below each other, named once."""
    lines: list[str | None] = [*(text or "").rstrip().splitlines()]
    first, *more = lines or [text]
    return [(name, first), *(("", line) for line in more)]


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
