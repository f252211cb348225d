"""What an owner does with jobs and types: `kqs cancel`, `retry`, `delete`, `purge`, `suspend`, `subscribe`, and back."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec

from kqs.cli.arguments import json_option, server_option
from kqs.cli.choosing import chosen, filter_options

if TYPE_CHECKING:
    from kqs.client import Address

#: how the answer to a verb is told
_DONE = {"cancel": "cancelled", "retry": "wait again", "delete": "deleted"}
_WOULD = {"cancel": "would be cancelled", "retry": "would wait again", "delete": "would be deleted"}
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Only say how many it would be.")
#: a call that changes millions of jobs is answered when it is done, in s: a day
_LONGEST_S = 86_400.0


def _bulk_options(command: Any) -> Any:
    options = (
        click.argument("ids", metavar="[ID]…", nargs=-1),
        filter_options,
        click.option("--all", "every", is_flag=True, help="All jobs there are."),
        _DRY_RUN,
        click.option("--yes", "-y", is_flag=True, help="Do not ask on a terminal."),
        json_option,
        server_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command("cancel")
@_bulk_options
def cancel_command(**values: Any) -> None:
    """Call jobs off: those that wait end as cancelled, those that run are told to stop."""
    _change("cancel", values)


@click.command("retry")
@_bulk_options
def retry_command(**values: Any) -> None:
    """Let failed and cancelled jobs wait again, with all their tries."""
    _change("retry", values)


@click.command("delete")
@click.option("--force", is_flag=True, help="Running jobs too: their workers are told, their reports refused.")
@_bulk_options
def delete_command(*, force: bool, **values: Any) -> None:
    """Delete jobs that wait or have ended, and all that is known of them."""
    _change("delete", values, {"force": True} if force else {})


@click.command("purge")
@click.argument("type_", metavar="TYPE")
@click.option("--match", "pattern", help="Only jobs in whose data, as JSON, this RE2 pattern is found.")
@_DRY_RUN
@click.option("--yes", "-y", is_flag=True, help="Do not ask on a terminal.")
@json_option
@server_option
def purge_command(type_: str, pattern: str | None, *, dry_run: bool, yes: bool, as_lines: bool, server: Address) -> None:
    """Delete the waiting jobs of TYPE."""
    from kqs.cli.output import print_line
    from kqs.states import WAITING

    wanted: dict[str, Any] = {"type": type_} | ({"regex": pattern} if pattern is not None else {})
    total = None
    if dry_run:
        wanted["dry_run"] = True
    elif not yes:
        waiting = {"type": type_, "state": sorted(state.word for state in WAITING)}
        total = _ask("delete", waiting | ({"match": pattern} if pattern is not None else {}), server)
    result = _call(server, "purge", wanted, total)
    if as_lines:
        print_line(result)
    else:
        _tell("delete", {"count": msgspec.json.decode(result)}, dry_run=dry_run)


def _subject(command: Any) -> Any:
    """Give a command TYPE, or --schedule."""
    command = click.option("--schedule", help="A schedule, in the place of TYPE.")(command)
    return click.argument("type_", metavar="[TYPE]", required=False)(command)


@click.command("suspend")
@_subject
@json_option
@server_option
def suspend_command(type_: str | None, schedule: str | None, *, as_lines: bool, server: Address) -> None:
    """Let no more jobs of TYPE begin, on any server of the store, until `kqs resume TYPE`; or let a schedule tick no more."""
    _turn("suspend", type_, schedule, server, as_lines=as_lines)


@click.command("resume")
@_subject
@json_option
@server_option
def resume_command(type_: str | None, schedule: str | None, *, as_lines: bool, server: Address) -> None:
    """Let jobs of a suspended TYPE begin again; or a suspended schedule tick again, from now on."""
    _turn("resume", type_, schedule, server, as_lines=as_lines)


@click.command("subscribe")
@click.argument("type_", metavar="TYPE")
@click.argument("subscriber")
@json_option
@server_option
def subscribe_command(type_: str, subscriber: str, *, as_lines: bool, server: Address) -> None:
    """Make a job of SUBSCRIBER, a type, of each TYPE that is inserted from now on."""
    _subscribe("subscribe", type_, subscriber, server, as_lines=as_lines)


@click.command("unsubscribe")
@click.argument("type_", metavar="TYPE")
@click.argument("subscriber")
@json_option
@server_option
def unsubscribe_command(type_: str, subscriber: str, *, as_lines: bool, server: Address) -> None:
    """Make jobs of SUBSCRIBER no more when a job of TYPE is inserted."""
    _subscribe("unsubscribe", type_, subscriber, server, as_lines=as_lines)


def _subscribe(verb: str, type_: str, subscriber: str, server: Address, *, as_lines: bool) -> None:
    from kqs.cli.connection import call
    from kqs.cli.output import print_line
    from kqs.words.printable import printable

    result = call(server, verb, msgspec.json.encode({"type": type_, "subscriber": subscriber}))
    if as_lines:
        print_line(result)
    else:
        is_changed = msgspec.json.decode(result)["changed"]
        click.echo(f"{printable(subscriber)} {verb}d{'' if is_changed else ' already'}")


def _turn(verb: str, type_: str | None, schedule: str | None, server: Address, *, as_lines: bool) -> None:
    from kqs.cli.connection import call
    from kqs.cli.output import print_line
    from kqs.words.printable import printable

    if (type_ is None) == (schedule is None):
        raise click.UsageError("expected a TYPE or a --schedule, one of them")
    subject = {"type": type_} if schedule is None else {"schedule": schedule}
    result = call(server, verb, msgspec.json.encode(subject))
    if as_lines:
        print_line(result)
    else:
        click.echo(f"{printable(schedule or type_ or '')} {verb.removesuffix('e')}ed")


def _change(verb: str, values: dict[str, Any], more: dict[str, Any] | None = None) -> None:
    """Do what a bulk verb says, and tell what came of it."""
    from kqs.cli.output import print_line

    ids, server, yes, dry_run = values["ids"], values["server"], values["yes"], values["dry_run"]
    wanted = _filter(list(ids), chosen(values), every=values["every"])
    total = None if ids or yes or dry_run else _ask(verb, wanted, server, more)
    result = _call(server, verb, wanted | (more or {}) | ({"dry_run": True} if dry_run else {}), total)
    if values["as_lines"]:
        print_line(result)
    else:
        _tell(verb, msgspec.json.decode(result), dry_run=dry_run)


def _filter(ids: list[str], wanted: dict[str, Any], *, every: bool) -> dict[str, Any]:
    if every and (ids or wanted):
        raise click.UsageError("--all goes with no other choice of jobs")
    if every:
        return {"all": True}
    if len(ids) == 1 and not wanted:
        return {"id": ids[0]}
    if ids:
        wanted = {**wanted, "ids": ids}
    if not wanted:
        raise click.UsageError(
            "no jobs are chosen: name ids, or give --type, --state, --resource, --group, --older-than, --match or --all"
        )
    return wanted


def _ask(verb: str, wanted: dict[str, Any], server: Address, more: dict[str, Any] | None = None) -> int | None:
    """Ask whoever sits at a terminal whether it is meant; return how many jobs it is about, None: nobody was asked.

    Raises: click.Abort: it is not.
    """
    if not sys.stdin.isatty():
        return None
    told = msgspec.json.decode(_call(server, verb, {**wanted, **(more or {}), "dry_run": True}))
    if told["count"]:
        click.confirm(f"{verb} {told['count']:,} job{'s' * (told['count'] != 1)}?", abort=True, err=True)
    count: int = told["count"]
    return count


def _call(server: Address, verb: str, wanted: dict[str, Any], total: int | None = None) -> msgspec.Raw:
    """Call, and show on a terminal how far it is. total: of so many jobs, about."""
    from rich.console import Console

    from kqs.cli.connection import call, call_with_progress
    from kqs.cli.ending import ended_in_order

    console = Console(stderr=True)
    if not console.is_terminal:
        return call(server, verb, msgspec.json.encode(wanted), _LONGEST_S)
    with ended_in_order(), console.status(f"{verb}…") as status:

        def show(told: msgspec.Raw) -> None:
            status.update(so_far(verb, msgspec.json.decode(told)["count"], total))

        return call_with_progress(server, verb, msgspec.json.encode(wanted | {"progress": True}), show, _LONGEST_S)


def so_far(verb: str, count: int, total: int | None) -> str:
    """Return how far a change is, for a terminal; more jobs may have come to fit since they were counted."""
    return f"{verb}… {count:,}" if total is None else f"{verb}… {count:,} of about {max(count, total):,}"


def _tell(verb: str, told: dict[str, Any], *, dry_run: bool) -> None:
    skipped = told.get("skipped") or 0
    passed = f"; {skipped:,} that run passed over (--force deletes them too)" if skipped else ""
    click.echo(f"{told['count']:,} {(_WOULD if dry_run else _DONE)[verb]}{passed}")
