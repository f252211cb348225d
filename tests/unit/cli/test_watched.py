import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kqs.cli import watched
from kqs.cli.watched import WatchedFiles
from kqs.errors import JournalError
from kqs.journal import Files, OsFiles
from kqs.journal.repair import repair
from kqs.journal.survey import Report, verify
from tests.support.journal import a_journal, a_record, all_settled


class Done:
    """A progress that only counts."""

    def __init__(self) -> None:
        self.bytes = 0

    def advance(self, size_bytes: int) -> None:
        self.bytes += size_bytes


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A journal of several segments."""
    journal = a_journal(OsFiles(), dir=tmp_path, segment_bytes=20_000)
    await journal.start()
    for index in range(10):
        journal.append(a_record("x" * 9_000, first_order=index + 1))
        await all_settled(journal)
    await journal.stop()
    return tmp_path


@pytest.mark.parametrize(("work", "reads"), [(verify, 2), (repair, 3)])
def test_the_bar_ends_about_where_the_work_does(folder: Path, work: Callable[[Path, Files], Report], reads: int) -> None:
    size_bytes = sum(path.stat().st_size for path in folder.glob("*.kqj"))
    done = Done()
    assert work(folder, WatchedFiles(done)).problems == []
    assert 0.9 < done.bytes / (reads * size_bytes) < 1.2


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to("nothing")


@pytest.mark.parametrize("make", [a_link_to_nothing, os.mkfifo, Path.mkdir])
@pytest.mark.parametrize("work", [verify, repair])
def test_what_is_no_file_may_stand_for_one_and_is_named(
    folder: Path, work: Callable[[Path, Files], Report], make: Callable[[Path], None]
) -> None:
    make(folder / "000000000098.kqj")
    with pytest.raises(JournalError, match=r"000000000098\.kqj is no regular file"):
        watched.watched("verifying", work, folder, 2)


def test_a_bar_stands_on_stderr_while_the_work_is_done(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert watched.watched("verifying", verify, folder, 2).records == 10
    assert "verifying" in capsys.readouterr().err
