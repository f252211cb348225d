"""`kqs jobs` and `kqs job`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from kqs.cli.arguments import SecondsWithin, WholeNumber, json_option, server_option
from kqs.cli.choosing import chosen, filter_options
from kqs.errors import ExitCode
from kqs.options import MAX_WAIT_S
from kqs.states import State

if TYPE_CHECKING:
    from kqs.client import Address, Client

_COLUMNS = ("id", "type", "state", "prio", "attempt", "accepted", "due", "ended", "error")
#: what a narrow terminal goes without, in that order
_SPARE = ("prio", "due", "ended", "attempt", "accepted")
#: what a narrow terminal goes without of a job's runs, in that order
_SPARE_OF_RUNS = ("ended_at", "worker", "started_at")
_AS_THEY_STAND = ("data", "result")
_TIMES = ("accepted_at", "due_at", "expire_at", "started_at", "ended_at", "drop_at")


_decode = msgspec.json.Decoder().decode
_decode_record = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_runs = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode


@click.command("jobs")
@filter_options
@click.option("--newest", is_flag=True, help="The newest first.")
@click.option("--limit", type=WholeNumber(1), default=100, show_default=True, help="Most jobs shown.")
@click.option("--after", help="Begin after the job with this id.")
@json_option
@server_option
def jobs_command(*, newest: bool, limit: int, after: str | None, as_lines: bool, server: Address, **values: Any) -> None:
    """List jobs in the order they were accepted.

    Of an error the beginning is shown; `kqs job ID` and --json have the whole.
    """
    from kqs.cli.connection import listed, with_client
    from kqs.cli.output import print_line, print_table

    query = chosen(values)
    if newest:
        query["newest"] = True
    if after is not None:
        query["after"] = after

    async def work(client: Client) -> None:
        if as_lines:
            async for job in listed(client, "jobs", query, "id", limit):
                print_line(job)
            return
        found = [_cells(_decode_record(job)) async for job in listed(client, "jobs", query, "id", limit)]
        print_table(_COLUMNS, map(_row, found), numbers=("prio", "attempt"), spare=_SPARE)

    with_client(server, work)


def _row(job: dict[str, Any]) -> list[Any]:
    from kqs.cli.output import brief

    times = [job["accepted_at"], job["due_at"], job["ended_at"]]
    return [job["id"], job["type"], job["state"], str(job["options"]["prio"]), job["attempt"], *times, brief(job["error"])]


@click.command("job")
@click.argument("id_", metavar="ID")
@click.option(
    "--wait", "wait_s", type=SecondsWithin(MAX_WAIT_S), help="Wait so many seconds for its end; exit 1 unless it succeeds."
)
@json_option
@server_option
def job_command(id_: str, wait_s: float | None, as_lines: bool, server: Address) -> ExitCode:
    """Show all that is known of one job.

    Of its runs' errors the beginning is shown; --json has the whole.
    """
    from kqs.cli.connection import call, with_client
    from kqs.cli.output import print_line

    async def wait(client: Client) -> msgspec.Raw:
        assert wait_s is not None
        return await client.wait_for_end(id_, wait_s)

    result = call(server, "job", msgspec.json.encode(id_)) if wait_s is None else with_client(server, wait)
    record = _decode_record(result)
    if as_lines:
        print_line(result)
    else:
        _print_job(record)
    has_failed = wait_s is not None and _decode(record["state"]) != State.SUCCESS.word
    return ExitCode.REFUSED if has_failed else ExitCode.OK


def _print_job(record: dict[str, msgspec.Raw]) -> None:
    from kqs.cli.output import brief, in_lines, print_pairs, print_table

    runs = [_cells(run) for run in _decode_runs(record.pop("runs"))]
    cells = _cells(record)
    cells["options"] = msgspec.json.format(record["options"], indent=0).decode()  # with spaces, where a terminal folds it
    error = in_lines("error", cells.pop("error"))
    print_pairs([*cells.items(), *error])
    if runs:
        click.echo()
        rows = [[*run.values()] for run in (run | {"error": brief(run["error"])} for run in runs)]
        print_table(list(runs[0]), rows, numbers=("attempt",), spare=_SPARE_OF_RUNS)


def _cells(record: dict[str, msgspec.Raw]) -> dict[str, Any]:
    """Return a record's values for people. What a client or handler made stays JSON: it may hold what nothing here decodes."""
    from kqs.cli.output import shown_time

    values: dict[str, Any] = {name: value if name in _AS_THEY_STAND else _decode(value) for name, value in record.items()}
    return values | {name: shown_time(values[name]) for name in _TIMES if name in values}
