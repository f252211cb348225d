"""What `kqs top` shows of one look at a server: lines that fit a terminal. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kqs.cli.output import shown, shown_time, table_lines
from kqs.cli.views import (
    NUMBERS_OF_TYPES,
    NUMBERS_OF_WORKERS,
    SPARE_OF_TYPES,
    SPARE_OF_WORKERS,
    TYPE_COLUMNS,
    WORKER_COLUMNS,
    type_row,
    worker_row,
)
from kqs.states import WAITING
from kqs.words.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

#: lines of a table's heading
_HEADING = 2
#: workers that a low terminal still shows, so that the types do not take it all
_LEAST_WORKERS = 3
#: what is shown of a type, which may be longer than the screen is wide
_TYPE_CHARS = 32
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


class Look(NamedTuple):
    """What a server answered. at: when, monotonic; stats, health, types, workers: as the calls of these names answer."""

    at: float
    stats: dict[str, Any]
    health: dict[str, Any]
    types: list[dict[str, Any]]
    workers: list[dict[str, Any]]


def frame(server: str, now: float, look: Look, before: Look, fault: str | None, console: Console) -> list[str]:
    """Return the lines for one look, as many as the console is high at most, none of them wider than it.

    Args: now: Unix seconds. before: the look before it, from which rates are made. fault: why there is no newer look.
    """
    head = [f"{server}  up {_long(look.stats['uptime_s'])}  {shown_time(now)}", _verdict(look, fault), *_sums(look, before), ""]
    rows = console.height - len(head) - 2 * _HEADING - 1
    workers = min(len(look.workers), max(_LEAST_WORKERS, rows - len(look.types)))
    types = [[_cut(type_, _TYPE_CHARS), *others] for type_, *others in map(type_row, sorted(look.types, key=_foremost))]
    lines = [
        *head,
        *_table(TYPE_COLUMNS, types, NUMBERS_OF_TYPES, SPARE_OF_TYPES, rows - workers, console),
        "",
        *_table(WORKER_COLUMNS, list(map(worker_row, look.workers)), NUMBERS_OF_WORKERS, SPARE_OF_WORKERS, workers, console),
    ]
    return [_cut(line, console.width) for line in lines[: console.height]]


def _verdict(look: Look, fault: str | None) -> str:
    if fault is not None:
        return printable(f"no answer, trying again: {fault}")
    problems = look.health["problems"]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return printable(look.health["verdict"] + (f": {problems[0]}{more}" if problems else ""))


def _sums(look: Look, before: Look) -> list[str]:
    stats = look.stats
    waiting = [f"{_count(stats, f'jobs_{word}')} {word}" for word in ("new", "delayed", "retry", "ghost")]
    state = f"jobs: {', '.join(waiting)}, {_count(stats, 'running')} running, {_count(stats, 'jobs_fail')} failed"
    rates = [
        f"{_rate(look, before, name)} {word}"
        for name, word in (("jobs_inserted", "inserted"), ("runs_done", "reported"), ("runs_failed", "failed"))
    ]
    behind = f"{_count(stats, 'journal_unfed_records')} records not in the store yet"
    return [state, f"a second: {', '.join(rates)}; {behind}"]


def _count(stats: dict[str, Any], name: str) -> str:
    """Return a count; of what the store did not tell, none."""
    return shown(stats.get(name))


def _rate(look: Look, before: Look, name: str) -> str:
    elapsed_s = look.at - before.at
    if elapsed_s <= 0 or look.stats["uptime_s"] < before.stats["uptime_s"]:  # the first look, or another server since
        return "-"
    return shown(round((look.stats[name] - before.stats[name]) / elapsed_s))


def _foremost(one: dict[str, Any]) -> tuple[int, int, str]:
    counts = one["counts"]
    return (-counts.get("processing", 0), -sum(counts.get(state.word, 0) for state in WAITING), one["type"])


def _table(
    headings: Sequence[str],
    rows: Sequence[Sequence[Any]],
    numbers: Sequence[str],
    spare: Sequence[str],
    most: int,
    console: Console,
) -> list[str]:
    """Return a table with `most` rows at most, the last of which says how many more there are, if there are."""
    most = max(most, 1)
    told = rows if len(rows) <= most else rows[: most - 1]
    more = [] if told is rows else [f"… and {len(rows) - len(told):,} more"]
    return [*table_lines(headings, told, numbers, spare, console), *more]


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else f"{line[: width - 1]}…"


def _long(seconds: float) -> str:
    """Return a time in its two largest units."""
    whole = int(seconds)
    if whole >= _DAY_S:
        return f"{whole // _DAY_S} d {whole % _DAY_S // _HOUR_S} h"
    if whole >= _HOUR_S:
        return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S} min"
    return f"{whole // _MINUTE_S} min {whole % _MINUTE_S} s"
