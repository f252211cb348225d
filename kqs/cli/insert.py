"""`kqs insert`: one job, or a file of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from kqs.cli.arguments import Number, Seconds, SecondsWithin, WholeNumber, YesOrNo, as_json, json_option, server_option
from kqs.options import MAX_WAIT_S, JobFields, schema_of

if TYPE_CHECKING:
    from kqs.client import Address, Client, Ended

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])

#: an insert that waits is refused with these after its job was kept
_KEPT = ("job_failed", "cancelled", "timeout")


class NumberOrText(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """A number stays one: `--prio 500` and `--prio high`, `--at 1767225600` and `--at 2026-01-01T00:00:00Z`."""

    name = "number or text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or the text."""
        try:
            number = int(value) if str(value).lstrip("-").isdecimal() else float(value)
        except ValueError:
            return value
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


#: those that are told first, in this order, and those that are told last
_FIRST = ("id", "prio", "delay", "at")
_LAST = ("group", "unique", "keep", "resource", "wait")


def _fields() -> Iterator[tuple[str, tuple[Any, str]]]:
    others = [name for name in JobFields.__struct_fields__ if name not in (*_FIRST, *_LAST)]
    for name in (*_FIRST, *others, *_LAST):
        schema = schema_of(JobFields, name)
        if "description" in schema:
            yield name, (_type_of(schema), schema["description"])


def _type_of(schema: Mapping[str, Any]) -> Any:
    one, *more = [choice for choice in schema["anyOf"] if choice != {"type": "null"}]
    if more or "anyOf" in one:
        return NumberOrText()
    if "enum" in one:
        return click.Choice(one["enum"])
    number = Seconds() if one.get("unit") == "seconds" else Number()
    return {"boolean": YesOrNo(), "integer": WholeNumber(), "number": number, "string": str}[one["type"]]


#: field of a job -> (type, help); the server checks the values. Who waits not at all for an end says nothing of it
FIELDS: dict[str, tuple[Any, str]] = dict(_fields())
FIELDS["wait"] = (SecondsWithin(MAX_WAIT_S), FIELDS["wait"][1])


#: what may follow an option that is true without a value; anything else is the next argument
_BOOLEANS = frozenset({"true", "false", "yes", "no", "on", "off", "1", "0", "t", "f", "y", "n"})


class SpeltOutCommand(click.Command):
    """Takes `--auto-touch` alone as true, also before TYPE, where click's own optional values would take TYPE for the value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click.Command."""
        return super().parse_args(ctx, list(_spelt_out(args)))


def _spelt_out(arguments: Sequence[str]) -> Iterator[str]:
    flags = {_option(name) for name, (type_, _) in FIELDS.items() if isinstance(type_, YesOrNo)}
    ahead = (*arguments[1:], "")
    for argument, following in zip(arguments, ahead, strict=False):
        yield f"{argument}=true" if argument in flags and following.lower() not in _BOOLEANS else argument


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def field_options(without: Collection[str] = (), **helps: str) -> Callable[[AnyFunction], AnyFunction]:
    """Give a command one option a field of `FIELDS`, each None unless given; but for some.

    Args: helps: of fields, in the place of their own.
    """

    def with_options(command: AnyFunction) -> AnyFunction:
        for name, (type_, help_) in reversed(FIELDS.items()):
            if name not in without:
                metavar = "[BOOLEAN]" if isinstance(type_, YesOrNo) else None
                command = click.option(_option(name), name, type=type_, help=helps.get(name, help_), metavar=metavar)(command)
        return command

    return with_options


@click.command("insert", cls=SpeltOutCommand)
@click.argument("type_", metavar="TYPE", required=False)
@click.argument("json", metavar="[JSON]", required=False)
@field_options()
@click.option("--after", multiple=True, metavar="ID", help="Wait until this job has succeeded; once for each of them.")
@click.option("--after-any-end", is_flag=True, help="With --after: run however those have ended.")
@click.option("--batch", default=None, metavar="ID", help="Join this open batch (see `batch` in docs/protocol.md).")
@click.option("--refuse", is_flag=True, help="With --unique: refuse the second job, instead of joining it (exit 1).")
@click.option(
    "--file", "path", type=click.Path(allow_dash=True), help="Insert a file of jobs, one JSON object a line; - is stdin."
)
@click.option("--run", "run_name", help="With --file: a name that makes the same file new jobs.")
@click.option("--progress/--no-progress", default=None, help="With --file: a progress bar on stderr. Default: on a terminal.")
@json_option
@server_option
def insert_command(
    type_: str | None,
    json: str | None,
    after: tuple[str, ...],
    after_any_end: bool,
    batch: str | None,
    refuse: bool,
    path: str | None,
    run_name: str | None,
    progress: bool | None,
    as_lines: bool,
    server: Address,
    **fields: Any,
) -> int:
    """Insert a job of TYPE with JSON as its data, and print its id; with --wait, wait for its end and print its result.

    JSON may be JSON5 ({a:1}); other text is sent as a string, unless it begins as JSON does.

    With --file, each line is a job; TYPE and options hold for the lines that do not say otherwise. Each job gets an id made
    of the file's content, its line and --run, so that the same command can be repeated after an interruption: what is in
    stays in, once, as long as the server remembers it (`keep`).
    """
    _check_beside("--after-any-end", after_any_end or None, "--after", after or None)
    _check_beside("--refuse", refuse or None, "--unique", fields["unique"])
    _check_beside("--run", run_name, "--file", path)
    _check_beside("--progress", progress, "--file", path)
    more = {
        "after": list(after) or None,
        "after_any_end": after_any_end or None,
        "batch": batch,
        "on_conflict": "refuse" if refuse else None,
        "type": type_,
    }
    job = {name: value for name, value in (fields | more).items() if value is not None}
    if path is not None:
        return _insert_file(server, path, json, job, run_name or "", progress, as_lines)
    if type_ is None:
        raise click.UsageError("TYPE is missing (or --file)")
    data = as_json(json) if json is not None else b"null"
    _insert_one(server, job | {"data": msgspec.Raw(data)}, as_lines)
    return 0


def _check_beside(option: str, value: object, other: str, value_of_other: object) -> None:
    """Refuse an option that says nothing without another. Args: value, value_of_other: None: it was not given.

    Raises: click.UsageError.
    """
    if value is not None and value_of_other is None:
        raise click.UsageError(f"{option} belongs to {other}")


def _insert_one(server: Address, job: dict[str, Any], as_lines: bool) -> None:
    from kqs.cli.connection import with_client
    from kqs.cli.output import print_line, print_pairs
    from kqs.client.ids import ClientIds
    from kqs.errors import CallError

    is_nameless = "wait" in job and "id" not in job and "unique" not in job  # what is joined to another has the other's id
    if is_nameless:
        job["id"] = ClientIds().take()
    is_told = as_lines and "wait" not in job and ("id" in job or "unique" in job)  # else it is new

    async def work(client: Client) -> dict[str, Any]:
        if is_told:
            inserted = await client.insert(**job, answer="full")
            return {"id": inserted.id, "created": inserted.created}
        answer: str | Ended = await client.insert(**job)
        if not isinstance(answer, str):
            return {"id": answer.id, "state": answer.state, "result": answer.raw}
        return {"id": answer}

    try:
        answer: dict[str, Any] = with_client(server, work)
    except CallError as error:
        if is_nameless and error.call_code in _KEPT:
            raise CallError(f"{job['id']}: {error}", error.call_code) from None
        raise
    if as_lines:
        print_line(answer)
    elif "state" in answer:
        print_pairs(answer.items())
    else:
        click.echo(answer["id"])


def _insert_file(
    server: Address, path: str, json: str | None, defaults: dict[str, Any], run_name: str, progress: bool | None, as_lines: bool
) -> int:
    from kqs.cli.insertfile import insert_file

    if json is not None or "id" in defaults or "wait" in defaults:
        raise click.UsageError("JSON, --id and --wait belong to one job, not to a file of them")
    return insert_file(server, path, defaults, run_name, progress=progress, as_lines=as_lines)
