"""`kqs batch`: jobs, and one that runs when all of them have ended."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
import msgspec

from kqs.cli.arguments import as_json, json_option, server_option
from kqs.cli.insert import SpeltOutCommand, field_options

if TYPE_CHECKING:
    from kqs.client import Address, Client

#: how the server names a job of a batch
_JOB = re.compile(r"job (\d+): ")
#: fields of a single insert
_NOT_OF_A_BATCH = ("wait",)


@click.command("batch", cls=SpeltOutCommand)
@click.argument("type_", metavar="TYPE", required=False)
@click.argument("json", metavar="[JSON]", required=False)
@field_options(_NOT_OF_A_BATCH)
@click.option(
    "--file",
    type=click.Path(allow_dash=True),
    help="Insert the jobs of a file with it, one JSON object a line, all or none; - is stdin.",
)
@click.option("--close", metavar="ID", help="Let no more jobs into a batch that was begun without --file.")
@json_option
@server_option
def batch_command(
    type_: str | None, json: str | None, file: str | None, close: str | None, as_lines: bool, server: Address, **fields: Any
) -> None:
    """Insert a job of TYPE with JSON as its data that runs once, when all jobs of a batch have ended; print the batch's id.

    The jobs are those of --file. Without it, the batch takes jobs by `kqs insert --batch ID` until `kqs batch --close ID`.
    """
    from kqs.cli.connection import with_client
    from kqs.cli.output import print_line, print_pairs

    then = {name: value for name, value in fields.items() if value is not None}
    if close is not None:
        if type_ is not None or file is not None or then:
            raise click.UsageError("--close takes nothing beside the id of a batch")
        stands = with_client(server, lambda client: client.close_batch(close))
        print_line(stands) if as_lines else print_pairs(stands.items())
        return
    if type_ is None:
        raise click.UsageError("TYPE is missing (or --close)")
    then |= {"type": type_, "data": msgspec.Raw(as_json(json) if json is not None else b"null")}
    jobs = None if file is None else _jobs(file)

    async def work(client: Client) -> str:
        if jobs is None:
            return await client.open_batch(then)
        with _told_by_lines(list(jobs)):
            return await client.batch(list(jobs.values()), then)

    batch_id = with_client(server, work)
    if as_lines:
        print_line({"id": batch_id})
    else:
        click.echo(batch_id)


def _jobs(path: str) -> dict[int, dict[str, msgspec.Raw]]:
    """Return the jobs of a file, by the numbers of their lines, in their order."""
    from kqs.cli.insertfile import opened

    with opened(path) as file:
        return {number: _job(number, line) for number, line in enumerate(file, 1) if not line.isspace()}


@contextmanager
def _told_by_lines(lines: Sequence[int]) -> Iterator[None]:
    """Have what the server says of a job, which it names by its position, name its line."""
    from kqs.errors import CallError

    try:
        yield
    except CallError as error:
        named = _JOB.match(str(error))
        if named is None:
            raise
        raise CallError(f"line {lines[int(named[1])]}: {str(error)[named.end() :]}", error.call_code) from None


def _job(number: int, line: bytes) -> dict[str, msgspec.Raw]:
    from kqs.errors import CallError
    from kqs.wire.jobs import read_fields

    try:
        return read_fields(line)
    except CallError as error:
        raise CallError(f"line {number}: {error}", error.call_code) from None
