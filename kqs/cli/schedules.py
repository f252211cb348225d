"""`kqs schedules`, `kqs schedule`, `kqs unschedule` and `kqs fire`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec

from kqs.cli.arguments import Seconds, WholeNumber, as_json, json_option, server_option
from kqs.cli.insert import NumberOrText, SpeltOutCommand, field_options
from kqs.options import CatchUp, Overlap

if TYPE_CHECKING:
    from kqs.client import Address, Client

_COLUMNS = ("name", "when", "type", "next", "last", "of it", "missed", "skipped", "from")
_NUMBERS = ("missed", "skipped")
_SPARE = ("skipped", "type", "missed", "last")
#: fields that no schedule's job has
_NOT_OF_A_TICK = ("id", "at", "wait")

_decode = msgspec.json.Decoder().decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@click.command("schedules")
@click.argument("name", required=False)
@click.option("--next", "count", type=WholeNumber(0), help="With NAME: print so many of its next instants, one a line.")
@json_option
@server_option
def schedules_command(name: str | None, count: int | None, *, as_lines: bool, server: Address) -> None:
    """Show what is inserted at which times, when next, and what became of the last."""
    from kqs.cli.connection import listed, with_client
    from kqs.cli.output import print_line, print_pairs, print_table, shown_time

    if count is not None and name is None:
        raise click.UsageError("--next belongs to a NAME")
    query = ({} if name is None else {"name": name}) | ({} if count is None else {"next": count})

    async def work(client: Client) -> None:
        found = [one async for one in listed(client, "schedules", query, "name")]
        if as_lines:
            for one in found:
                print_line(one)
        elif count is not None:
            for at in _values(found[0])["next"]:
                click.echo(shown_time(at))
        elif name is not None:
            print_pairs(_told(found[0]).items())
        else:
            print_table(_COLUMNS, map(_row, found), _NUMBERS, _SPARE)

    with_client(server, work)


@click.command("schedule", cls=SpeltOutCommand)
@click.argument("name")
@click.argument("type_", metavar="TYPE")
@click.argument("json", metavar="[JSON]", required=False)
@click.option("--cron", metavar="EXPRESSION", help="Five fields as cron has them, or a macro as @daily.")
@click.option("--every", type=Seconds(), metavar="SECONDS", help="Seconds between two ticks, in the place of --cron.")
@click.option("--from", "from_", type=NumberOrText(), help="From when --every counts: an RFC 3339 time or Unix seconds.")
@click.option("--tz", help="Time zone of --cron, as Europe/Berlin. Default: UTC.")
@click.option("--catch-up", type=click.Choice(get_args(CatchUp)), help="Which late ticks are inserted. Default: one.")
@click.option(
    "--overlap", type=click.Choice(get_args(Overlap)), help="Whether it ticks while its last job goes on. Default: allow."
)
@field_options(_NOT_OF_A_TICK)
@json_option
@server_option
def schedule_command(
    name: str,
    type_: str,
    json: str | None,
    cron: str | None,
    every: float | None,
    from_: float | str | None,
    tz: str | None,
    catch_up: str | None,
    overlap: str | None,
    as_lines: bool,
    server: Address,
    **fields: Any,
) -> None:
    """Insert a job of TYPE with JSON as its data at times, under NAME; a schedule of that name is replaced."""
    from kqs.cli.connection import call
    from kqs.cli.output import print_line, print_pairs

    job = {name: value for name, value in fields.items() if value is not None} | {"type": type_}
    if json is not None:
        job["data"] = msgspec.Raw(as_json(json))
    asked = {"name": name, "cron": cron, "every": every, "from": from_, "tz": tz, "catch_up": catch_up, "overlap": overlap}
    argument = {field: value for field, value in asked.items() if value is not None} | {"job": job}
    result = call(server, "schedule", msgspec.json.encode(argument))
    if as_lines:
        print_line(result)
    else:
        print_pairs(_told(result).items())


@click.command("unschedule")
@click.argument("name")
@click.option("--force", is_flag=True, help="Also one that the config of another server has, which may be gone for good.")
@json_option
@server_option
def unschedule_command(name: str, *, force: bool, as_lines: bool, server: Address) -> None:
    """Remove a schedule. The jobs that it has inserted stay."""
    from kqs.cli.connection import call
    from kqs.cli.output import print_line
    from kqs.words.printable import printable

    result = call(server, "unschedule", msgspec.json.encode({"name": name} | ({"force": True} if force else {})))
    if as_lines:
        print_line(result)
    else:
        click.echo(f"{printable(name)} unscheduled")


@click.command("fire")
@click.argument("name")
@json_option
@server_option
def fire_command(name: str, *, as_lines: bool, server: Address) -> None:
    """Insert a schedule's job now, beside its ticks, and print its id."""
    from kqs.cli.connection import call
    from kqs.cli.output import print_line

    result = call(server, "fire", msgspec.json.encode({"name": name}))
    job_id = msgspec.json.decode(result)
    if as_lines:
        print_line({"id": job_id})
    else:
        click.echo(job_id)


def _when(one: dict[str, Any]) -> str:
    if one["cron"] is None:
        return f"every {one['every']:g} s"
    return str(one["cron"]) if one["tz"] == "UTC" else f"{one['cron']} {one['tz']}"


def _values(schedule: msgspec.Raw) -> dict[str, Any]:
    """Return a schedule's fields. Its job stays JSON: data may hold what nothing here decodes."""
    return {name: value if name == "job" else _decode(value) for name, value in _decode_fields(schedule).items()}


def _row(schedule: msgspec.Raw) -> list[Any]:
    from kqs.cli.output import shown_time

    one = _values(schedule)
    type_ = _decode(_decode_fields(one["job"])["type"])
    last = one["last"] or {"at": None, "state": None}
    ahead = "suspended" if one["suspended_at"] is not None else shown_time(one["next"][0]) if one["next"] else None
    times = [ahead, None if last["at"] is None else shown_time(last["at"])]
    return [one["name"], _when(one), type_, *times, last["state"], one["missed"], one["skipped"], one["origin"]]


def _told(schedule: msgspec.Raw) -> dict[str, Any]:
    """Return a schedule for people: without what says nothing, and with times."""
    from kqs.cli.output import shown_time

    told = {name: value for name, value in _values(schedule).items() if value not in (None, [])}
    last = told.pop("last", None)
    told |= {name: shown_time(told[name]) for name in ("from", "created_at", "suspended_at") if name in told}
    if "next" in told:
        told["next"] = ", ".join(str(shown_time(at)) for at in told["next"])
    if last is not None:
        told |= {"last": shown_time(last["at"]), "last_id": last["id"], "last_state": last["state"]}
    return told
