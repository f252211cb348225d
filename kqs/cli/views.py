"""`kqs explain`, `kqs types` and `kqs workers`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from kqs.cli.arguments import json_option, server_option
from kqs.cli.limiting import in_words

if TYPE_CHECKING:
    from kqs.client import Address, Client

#: a row names so many types
_NAMED = 3

NUMBERS_OF_TYPES = ("waiting", "of", "running", "failed", "oldest", "in/s", "out/s", "wait p95", "run p95")
TYPE_COLUMNS = ("type", *NUMBERS_OF_TYPES, "suspended", "limits", "workers")
SPARE_OF_TYPES = ("wait p95", "run p95", "in/s", "failed", "of", "limits", "out/s", "oldest", "suspended")
NUMBERS_OF_WORKERS = ("room", "open", "done", "failed")
WORKER_COLUMNS = ("name", "kind", *NUMBERS_OF_WORKERS, "since", "address", "types")
SPARE_OF_WORKERS = ("address", "since", "failed", "kind")


@click.command("explain")
@click.argument("id_", metavar="ID")
@json_option
@server_option
def explain_command(id_: str, as_lines: bool, server: Address) -> None:
    """Say why a job does not run, or how it has ended."""
    from kqs.cli.connection import call
    from kqs.cli.output import in_lines, print_line, print_pairs, shown_time
    from kqs.words.printable import printable

    result = call(server, "explain", msgspec.json.encode(id_))
    if as_lines:
        print_line(result)
        return
    facts: dict[str, Any] = msgspec.json.decode(result)
    click.echo(printable(facts.pop("text")))
    times = {name: shown_time(value) for name, value in facts.items() if name.endswith("_at") or name == "since"}
    click.echo()
    error = in_lines("error", facts.pop("error")) if "error" in facts else []
    print_pairs([*(facts | times).items(), *error])


@click.command("types")
@click.option("--type", "type_", help="Only this type.")
@json_option
@server_option
def types_command(type_: str | None, as_lines: bool, server: Address) -> None:
    """Show what there is of each type: what waits, how fast it goes, how long it takes, and who takes it."""
    from kqs.cli.connection import listed, with_client
    from kqs.cli.output import print_line, print_table

    async def work(client: Client) -> None:
        found = [one async for one in listed(client, "types", {} if type_ is None else {"type": type_}, "type")]
        if as_lines:
            for one in found:
                print_line(one)
        else:
            print_table(TYPE_COLUMNS, map(type_row, map(msgspec.json.decode, found)), NUMBERS_OF_TYPES, SPARE_OF_TYPES)

    with_client(server, work)


def _first_of(names: list[str], count: int) -> str | None:
    """Return the first of `names`, which may be some of `count`, for a row; None: there are none."""
    return ", ".join([*names[:_NAMED], *(["…"] if count > _NAMED else [])]) or None


def type_row(one: dict[str, Any]) -> list[Any]:
    """Return a member of the answer of `types` as a row of TYPE_COLUMNS."""
    from kqs.states import WAITING

    counts = one["counts"]
    waiting = sum(counts.get(state.word, 0) for state in WAITING)
    wait_s, run_s = ((one[name] or {}).get("p95") for name in ("wait_s", "run_s"))
    rates = [one[name][0] for name in ("in_per_s", "out_per_s")]
    ages = [one["oldest_s"], *rates, wait_s, run_s]
    told = [None if value is None else round(value, 3) for value in ages]
    who = _first_of(one["workers"], one["workers_count"])
    limits = in_words(one["limits"]) or None
    suspended = "suspended" if one["suspended_at"] is not None else None
    numbers = [waiting, one["limits"].get("max_waiting"), counts.get("processing", 0), counts.get("fail", 0)]
    return [one["type"], *numbers, *told, suspended, limits, who]


@click.command("workers")
@json_option
@server_option
def workers_command(as_lines: bool, server: Address) -> None:
    """Show who runs jobs of the server."""
    from kqs.cli.connection import call
    from kqs.cli.output import print_line, print_table

    found: list[dict[str, Any]] = msgspec.json.decode(call(server, "workers"))
    if as_lines:
        for one in found:
            print_line(one)
    else:
        print_table(WORKER_COLUMNS, map(worker_row, found), NUMBERS_OF_WORKERS, SPARE_OF_WORKERS)


def worker_row(one: dict[str, Any]) -> list[Any]:
    """Return a member of the answer of `workers` as a row of WORKER_COLUMNS."""
    from kqs.cli.output import shown_time

    types = _first_of(one["types"], one["types_count"])
    numbers = [one[name] for name in ("room", "open", "done", "failed")]
    return [one["name"], one["kind"], *numbers, shown_time(one["since"]), one["address"], types]
