from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kqs.errors import JournalError, JournalLockedError
from kqs.journal.files import OsFiles
from kqs.journal.lock import JournalLock
from tests.support.files import FaultyFiles, MemoryFiles, failing


def a_lock(folder: Path) -> JournalLock:
    return JournalLock(OsFiles(), folder)


def test_it_names_its_holder_and_is_given_back(tmp_path: Path) -> None:
    held = a_lock(tmp_path)
    held.check()
    with pytest.raises(JournalLockedError, match=f"in use by process {os.getpid()}$"):
        a_lock(tmp_path)
    held.release()
    a_lock(tmp_path).release()


def test_a_removed_lock_file_lets_nobody_in(tmp_path: Path) -> None:
    held = a_lock(tmp_path)
    (tmp_path / "lock").unlink()
    with pytest.raises(JournalLockedError, match="in use by process \\?"):
        a_lock(tmp_path)
    assert not (tmp_path / "lock").exists()
    with pytest.raises(JournalError, match=r"the lock .* was removed or replaced"):
        held.check()
    assert held.regain()
    assert not held.regain()
    held.check()
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    held.release()


def test_a_lock_file_that_another_took_is_not_regained(tmp_path: Path) -> None:
    held = a_lock(tmp_path)
    (tmp_path / "lock").unlink()
    other = OsFiles().lock(tmp_path / "lock", "4711\n")
    for _ in range(2):
        with pytest.raises(JournalLockedError, match="process 4711"):
            held.regain()
    OsFiles().close(other)
    assert held.regain()
    held.release()


def test_a_folder_that_lost_its_name_is_not_regained_until_it_has_it_again(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "journal", tmp_path / "elsewhere"
    folder.mkdir()
    held = a_lock(folder)
    folder.rename(elsewhere)
    looks: list[Callable[[], object]] = [held.check, held.regain]
    for is_another in (False, True):
        if is_another:
            folder.mkdir()
        for look in looks:
            with pytest.raises(JournalError, match=r"the folder .* was removed or replaced"):
                look()
    assert list(folder.iterdir()) == []
    folder.rmdir()
    elsewhere.rename(folder)
    assert not held.regain()
    held.release()


def test_a_file_system_that_locks_no_folder_has_the_lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fcntl.flock

    def refuse_folders(handle: int, how: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):  # noqa: PTH112
            raise OSError(errno.EINVAL, "no")
        whole(handle, how)

    monkeypatch.setattr(fcntl, "flock", refuse_folders)
    held = a_lock(tmp_path)
    with pytest.raises(JournalLockedError, match=f"process {os.getpid()}"):
        a_lock(tmp_path)
    held.release()


def test_nothing_is_held_if_it_fails() -> None:
    files = FaultyFiles(MemoryFiles())
    for name in ("lock_dir", "identity", "lock"):
        files.plan = failing(name, OSError(errno.EIO, "gone"))
        with pytest.raises(OSError, match="gone"):
            JournalLock(files, Path("/journal"))
        assert files.inner.handles == {}
    files.plan = failing("close", OSError(errno.EIO, "gone"))
    JournalLock(files, Path("/journal")).release()
    assert files.inner.handles == {}
