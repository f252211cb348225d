import json
from pathlib import Path
from typing import Protocol

import pytest

from kqs.cli import run
from kqs.errors import JournalLockedError, JournalVersionError
from kqs.journal import Files
from kqs.journal.lost import LostJobs
from kqs.journal.survey import Report

INTACT = Report(segments=1, batches=2, records=3, bytes=400, end_seq=3, checkpoint_seq=1, torn=("1.kqj", 12))
DAMAGED = Report(segments=1, problems=["j/1.kqj:64 rot"], lost=[(3, 5)], set_aside=["1.kqj.64.damaged"])


#: by command, the module that does it
HOMES = {"verify": "survey", "dump": "survey", "repair": "repair"}


class RunJournal(Protocol):
    """Runs a journal command whose work gives `result`; returns (exit code, stdout, stderr)."""

    def __call__(self, command: str, result: object, *options: str) -> tuple[int, str, str]: ...


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> RunJournal:
    def journal(command: str, result: object, *options: str) -> tuple[int, str, str]:
        def work(_folder: Path, _files: Files | None = None) -> object:
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(f"kqs.journal.{HOMES[command]}.{command}", work)
        return run(["journal", command, str(tmp_path), *options]), *capsys.readouterr()

    return journal


def test_intact_journal_is_told(journal: RunJournal) -> None:
    code, out, _ = journal("verify", INTACT)
    assert code == 0
    assert [line.split()[-1] for line in out.splitlines() if line.startswith(("records", "verdict"))] == ["3", "intact"]
    assert "1.kqj, 12 bytes" in out


def test_damage_is_exit_code_65_with_its_place(journal: RunJournal) -> None:
    code, out, _ = journal("verify", DAMAGED)
    assert code == 65
    assert "j/1.kqj:64 rot" in out


@pytest.mark.parametrize(
    ("jobs", "told"),
    [
        (LostJobs(3, 5, True, 9, "a", "z", "0", "zz"), "records 3 .. 4: the store has their jobs"),
        (LostJobs(3, 5, False, 1000, "a", "z", "0", "zz"), "records 3 .. 4: at most 1,000 jobs, ids a .. z"),
        (LostJobs(3, 4, False, 1, "a", "a", "0", "zz"), "records 3 .. 3: at most 1 job, id a"),
        (LostJobs(3, 5, False, after_id="a", before_id="z"), "records 3 .. 4: jobs with ids after a and before z"),
        (LostJobs(3, 5, False, before_id="z"), "records 3 .. 4: jobs with ids before z"),
        (LostJobs(3, 5, False), "records 3 .. 4"),
        (LostJobs(3, None, False, after_id="a"), "records 3 .. the end: jobs with ids after a"),
    ],
)
def test_repair_lists_what_is_lost(journal: RunJournal, jobs: LostJobs, told: str) -> None:
    code, out, _ = journal("repair", Report(segments=1, lost=[(3, 5)], lost_jobs=[jobs], set_aside=["1.kqj.64.damaged"]))
    assert code == 0
    assert [line.split(maxsplit=1)[1] for line in out.splitlines() if line.startswith("lost")] == [told]
    assert "1.kqj.64.damaged" in out


def test_report_is_one_line_for_programs(journal: RunJournal) -> None:
    code, out, _ = journal("repair", DAMAGED, "--json")
    assert code == 65
    assert json.loads(out)["lost"] == [[3, 5]]


def test_dump_shows_each_line_safely(journal: RunJournal) -> None:
    assert journal("dump", iter(["segment 1", "  record 0 \x1b[2J"])) == (0, "segment 1\n  record 0 \\x1b[2J\n", "")


def test_running_server_keeps_its_journal(journal: RunJournal) -> None:
    assert journal("repair", JournalLockedError("a server holds it"))[::2] == (75, "kqs: a server holds it\n")


def test_newer_journal_is_left_alone(journal: RunJournal) -> None:
    assert journal("repair", JournalVersionError("newer"))[0] == 65


COMMANDS = pytest.mark.parametrize(
    ("command", "options"), [("verify", []), ("dump", []), ("repair", []), ("replay", ["--to=:1"])]
)


@COMMANDS
def test_folder_without_journal_is_told(
    command: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["journal", command, str(tmp_path), *options]) == 74
    assert capsys.readouterr() == ("", f"kqs: there is no journal in {tmp_path}\n")


@COMMANDS
def test_folder_that_cannot_be_read_is_told(
    command: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for name, fault in (("none", "no such file or directory"), ("file", "not a directory")):
        assert run(["journal", command, str(tmp_path / name), *options]) == 74
        assert capsys.readouterr() == ("", f"kqs: {tmp_path}/{name}: {fault}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
