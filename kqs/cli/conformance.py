"""`kqs conformance`: whether a worker or a client keeps the rules."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import click

from kqs.cli.arguments import AnyFunction, SecondsWithin, json_option
from kqs.cli.ending import ended_in_order
from kqs.cli.grouping import Group
from kqs.errors import ExitCode

if TYPE_CHECKING:
    from kqs.conformance import Line, Report, Rule, Tried

#: how long anything is waited for that a program must do, in s, unless told otherwise
DEFAULT_WITHIN_S = 15.0


@click.group("conformance", cls=Group)
def conformance_command() -> None:
    """Try a worker or a client of your own against a script that plays the server.

    The program is told where by {host} and {port} in its arguments, and by KQS_SERVER=host:port in its environment. What it
    must do says docs/write-a-client.md.
    """


def _tries(command: AnyFunction) -> AnyFunction:
    """Give a command what both take."""
    for add in (
        json_option,
        click.option(
            "--within",
            "within_s",
            type=SecondsWithin(),
            default=DEFAULT_WITHIN_S,
            show_default=True,
            help="Seconds that anything is waited for.",
        ),
        click.option("--rule", "names", multiple=True, metavar="NAME", help="Try only this rule; may be given again."),
        click.argument("command", nargs=-1, required=True),
    ):
        command = add(command)
    return command


@conformance_command.command("worker")
@_tries
def worker_command(command: tuple[str, ...], names: tuple[str, ...], within_s: float, as_lines: bool) -> ExitCode:
    """Try a worker: kqs conformance worker -- ./worker {host} {port}."""
    from kqs.conformance import WORKER_RULES, worker_report

    return _try(command, _chosen(WORKER_RULES, names), within_s, as_lines, worker_report)


@conformance_command.command("client")
@_tries
def client_command(command: tuple[str, ...], names: tuple[str, ...], within_s: float, as_lines: bool) -> ExitCode:
    """Try a client that inserts jobs: kqs conformance client -- ./producer {host} {port} echo."""
    from kqs.conformance import CLIENT_RULES, client_report

    return _try(command, _chosen(CLIENT_RULES, names), within_s, as_lines, client_report)


def _chosen(rules: Sequence[Rule], names: Collection[str]) -> list[Rule]:
    known = [rule.name for rule in rules]
    for name in names:
        if name not in known:
            raise click.UsageError(f"no rule is named {name!r}; there are {', '.join(known)}")
    return [rule for rule in rules if not names or rule.name in names]


def _try(command: Sequence[str], rules: Collection[Rule], within_s: float, as_lines: bool, report_on: Tried) -> ExitCode:
    from kqs.conformance.stage import Stage

    async def tried() -> Report:
        async with Stage(command, within_s) as stage:
            return await report_on(stage, rules, _tell_as_json if as_lines else _tell)

    with ended_in_order():  # the program must not outlive this
        report = asyncio.run(tried())
    if as_lines:
        from kqs.cli.output import print_line

        print_line({"ok": report.is_good, "score": report.summary})
    else:
        click.echo(report.summary)
    return ExitCode.OK if report.is_good else ExitCode.REFUSED


def _tell(line: Line) -> None:
    from kqs.words.printable import printable

    detail = f": {line.detail}" if line.detail else ""
    click.echo(printable(f"{line.end:<9}  {line.rule.name:<9}  {line.rule.demand}{detail}"))


def _tell_as_json(line: Line) -> None:
    from kqs.cli.output import print_line

    print_line({"rule": line.rule.name, "demand": line.rule.demand, "end": line.end, "detail": line.detail})
