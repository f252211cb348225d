"""`kqs journal verify|dump|repair|renew|replay`: what an operator does about a journal. A running server keeps its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from kqs.cli.arguments import ServerAddress, json_option
from kqs.cli.grouping import Group
from kqs.errors import ExitCode

if TYPE_CHECKING:
    from kqs.client import Address
    from kqs.journal.lost import LostJobs
    from kqs.journal.survey import Report

#: how often every segment is read: to judge it and to count what is in it; by `repair` also to find what is damaged
_VERIFY_READS, _REPAIR_READS = 2, 3


def _readable(_ctx: click.Context, _param: click.Parameter, folder: Path) -> Path:
    """Return the folder. Raises: OSError: it is none, or not ours to read; that is no fault of the command line."""
    with os.scandir(folder):
        return folder


_folder_argument = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path), callback=_readable)


@click.group("journal", cls=Group)
def journal_command() -> None:
    """Verify, show, repair, renew or replay the journal in a folder."""


@journal_command.command("verify")
@_folder_argument
@json_option
def verify_command(folder: Path, as_lines: bool) -> ExitCode:
    """Check every byte and change nothing; exit 65 if a server would refuse to start.

    Damage to what the store has already is listed as harmless.

    A torn tail, which the next start sets aside, is no damage. Beside a running server the last batch may look torn.
    """
    from kqs.cli.watched import watched
    from kqs.journal.survey import verify

    return _tell(watched("verifying", verify, folder, _VERIFY_READS), folder, as_lines)


@journal_command.command("dump")
@_folder_argument
def dump_command(folder: Path) -> None:
    """Print every segment, batch and record, and what is damaged."""
    from kqs.journal import absent
    from kqs.journal.survey import dump
    from kqs.words.printable import printable

    is_empty = True
    for line in dump(folder):
        is_empty = False
        click.echo(printable(line))
    if is_empty:
        raise absent(folder)


@journal_command.command("repair")
@_folder_argument
@json_option
def repair_command(folder: Path, as_lines: bool) -> ExitCode:
    """Salvage what is intact and list what is lost, so that a server starts again.

    The server must be stopped. Segments get their names back; what is not the journal's is renamed to NAME.stray. What is
    damaged is copied aside first (NAME.OFFSET.damaged); no intact job is touched.
    """
    from kqs.cli.watched import watched
    from kqs.journal.repair import repair

    return _tell(watched("repairing", repair, folder, _REPAIR_READS), folder, as_lines)


@journal_command.command("renew")
@_folder_argument
@json_option
def renew_command(folder: Path, as_lines: bool) -> None:
    """Let the next start begin a new journal for a store whose own is lost.

    For a journal that is gone or cannot be repaired, while its store is whole. The server must be stopped. What is left of the
    journal is put aside in DIR/lost-1, or the next number, from where `kqs journal replay` brings what is intact.
    """
    from kqs.cli.output import print_line, print_pairs
    from kqs.journal.renewal import renew

    aside = renew(folder)
    told = None if aside is None else str(aside)
    if as_lines:
        print_line({"set_aside": told})
    else:
        print_pairs([("set aside", told), ("next", "start the server: its store goes on with a new journal")])


@journal_command.command("replay")
@_folder_argument
@click.option("--to", "server", type=ServerAddress(), required=True, help="Address of the server that takes them.")
@click.option("--all", "everything", is_flag=True, help="Every job kept, not only those above the checkpoint.")
@click.option("--progress/--no-progress", default=None, help="A progress bar on stderr. Default: on a terminal.")
@json_option
def replay_command(folder: Path, server: Address, everything: bool, progress: bool | None, as_lines: bool) -> ExitCode:
    """Insert the jobs of a dead server's journal into a running server.

    Those above the checkpoint, which no store may have; each under its own id, so that the command can be repeated: what the
    server remembers changes nothing. The journal stays as it is.
    """
    import time

    from kqs.cli.inserting import insert_all
    from kqs.cli.replay import JournalJobs
    from kqs.journal.stopped import stopped_journal

    with stopped_journal(folder, everything=everything) as held:
        return insert_all(server, JournalJobs(held, time.time), progress=progress, as_lines=as_lines)


def _tell(report: Report, folder: Path, as_lines: bool) -> ExitCode:
    from kqs.cli.output import print_line, print_pairs
    from kqs.journal import absent

    if not report.segments and not report.problems:
        raise absent(folder)
    if as_lines:
        print_line(report)
    else:
        print_pairs(_pairs(report))
    return ExitCode.DATA_DAMAGED if report.problems else ExitCode.OK


def _pairs(report: Report) -> list[tuple[str, object]]:
    counts = msgspec.structs.asdict(report)
    pairs = [
        (name, counts[name]) for name in ("segments", "batches", "records", "bytes", "first_seq", "end_seq", "checkpoint_seq")
    ]
    if report.torn is not None:
        name, count = report.torn
        pairs.append(("torn tail", f"{name}, {count} bytes: an unacknowledged batch, set aside at the next start"))
    pairs += [("problem", problem) for problem in report.problems]
    pairs += [("harmless", damage) for damage in report.harmless]
    pairs += [("lost", _told(jobs)) for jobs in report.lost_jobs]
    pairs += [("set aside", name) for name in report.set_aside]
    pairs += [("kept", f"{name}, {count} bytes") for name, count in report.kept_aside if name not in report.set_aside]
    return [*pairs, ("verdict", "damaged" if report.problems else "intact")]


def _told(jobs: LostJobs) -> str:
    records = f"records {jobs.first_seq} .. " + ("the end" if jobs.end_seq is None else f"{jobs.end_seq - 1}")
    if jobs.is_stored:
        return f"{records}: the store has their jobs"
    if jobs.at_most == 1:
        return f"{records}: at most 1 job, id {jobs.first_id}"
    if jobs.at_most is not None:
        return f"{records}: at most {jobs.at_most:,} jobs, ids {jobs.first_id} .. {jobs.last_id}"
    bounds = [f"{word} {job_id}" for word, job_id in (("after", jobs.after_id), ("before", jobs.before_id)) if job_id]
    return f"{records}: jobs with ids {' and '.join(bounds)}" if bounds else records
