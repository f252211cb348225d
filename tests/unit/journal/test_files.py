from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kqs.errors import JournalError, JournalLockedError
from kqs.journal.files import OsFiles, read_all, write_all
from tests.support.files import FaultyFiles, MemoryFiles


@pytest.fixture
def files() -> OsFiles:
    return OsFiles()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_directory_is_made_for_its_owner_alone(files: OsFiles, tmp_path: Path) -> None:
    files.make_dir(tmp_path / "a" / "b")
    files.make_dir(tmp_path / "a" / "b")
    assert mode(tmp_path / "a" / "b") == 0o700


def test_a_directory_open_to_others_is_refused(files: OsFiles, tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    with pytest.raises(JournalError, match="writable by others"):
        files.make_dir(tmp_path)


def test_a_foreign_directory_is_refused(files: OsFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(JournalError, match="not to 4711"):
        files.make_dir(tmp_path)


@pytest.mark.parametrize(
    ("user", "owner", "given"),
    [(0, 4711, [(4711, 815)]), (0, 0, []), (4711, 4711, [])],
    ids=["root, in another's folder", "root, in its own", "another one"],
)
def test_what_root_makes_belongs_to_whoever_the_folder_does(
    files: OsFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, owner: int, given: list[tuple[int, int]]
) -> None:
    told: list[tuple[int, int]] = []
    with monkeypatch.context() as patches:
        patches.setattr(os, "geteuid", lambda: user)
        patches.setattr(os, "fchown", lambda _handle, uid, gid: told.append((uid, gid)))
        patches.setattr(Path, "stat", lambda _path: SimpleNamespace(st_uid=owner, st_gid=815))
        files.close(files.create(tmp_path / "new"))
        files.unlock(files.lock(tmp_path / "lock", "1"))
    assert told == 2 * given


def test_bytes_come_back_through_every_call(files: OsFiles, tmp_path: Path) -> None:
    handle = files.create(tmp_path / "new")
    files.allocate(handle, 100)
    write_all(files, handle, b"hello", 10)
    files.flush(handle)
    files.truncate(handle, 15)
    assert (files.size(handle), read_all(files, handle, 99, 0)) == (15, bytes(10) + b"hello")
    files.close(handle)
    files.rename(tmp_path / "new", tmp_path / "name")
    files.flush_dir(tmp_path)
    assert (files.list(tmp_path), mode(tmp_path / "name")) == (["name"], 0o600)
    handle = files.open(tmp_path / "name")
    assert files.read(handle, 5, 10) == b"hello"
    assert not os.get_inheritable(handle)
    files.close(handle)
    files.unlink(tmp_path / "name")
    assert files.list(tmp_path) == []
    assert files.free_bytes(tmp_path) > 0


def test_a_symbolic_link_is_neither_listed_nor_opened(files: OsFiles, tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"")
    (tmp_path / "link").symlink_to("real")
    assert files.list(tmp_path) == ["real"]
    with pytest.raises(OSError, match="symbolic links"):
        files.open(tmp_path / "link", writable=True)


def test_the_lock_names_its_holder(files: OsFiles, tmp_path: Path) -> None:
    held = files.lock(tmp_path / "lock", "4711\n")
    with pytest.raises(JournalLockedError, match="process 4711"):
        files.lock(tmp_path / "lock", "1\n")
    files.close(held)
    files.close(files.lock(tmp_path / "lock", "1\n"))
    assert (tmp_path / "lock").read_text() == "1\n"


def test_a_child_does_not_inherit_the_lock(files: OsFiles, tmp_path: Path) -> None:
    held = files.lock(tmp_path / "lock", "1\n")
    talk = "print('alive', flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", talk], stdin=pipe, stdout=pipe, close_fds=False) as child:
        assert child.stdout is not None
        child.stdout.readline()
        files.close(held)
        files.close(files.lock(tmp_path / "lock", "2\n"))
        child.communicate(b"\n")


def test_a_file_system_without_locks_says_so(files: OsFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_handle: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="no locks"):
        files.lock(tmp_path / "lock", "1\n")


def test_short_and_interrupted_writes_are_gone_on_with() -> None:
    files = FaultyFiles(MemoryFiles())
    handle = files.create(Path("/x"))
    faults = iter(["short", InterruptedError(), "short", None])
    files.plan = lambda _index, name: next(faults, None) if name == "write" else None
    write_all(files, handle, b"0123456789", 0)
    assert read_all(files, handle, 99, 0) == b"0123456789"


def test_a_write_that_takes_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    files = MemoryFiles()
    handle = files.create(Path("/x"))
    monkeypatch.setattr(files, "write", lambda *_args: 0)
    with pytest.raises(OSError, match="took no bytes"):
        write_all(files, handle, b"x", 0)


def test_short_reads_are_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    files = MemoryFiles({Path("/x"): b"0123456789"})
    handle = files.open(Path("/x"))
    whole = files.read
    monkeypatch.setattr(files, "read", lambda handle, count, offset: whole(handle, min(count, 3), offset))
    assert read_all(files, handle, 8, 1) == b"12345678"


def test_the_system_names_an_open_file_by_where_it_is_now(tmp_path: Path) -> None:
    files = OsFiles()
    handle = files.create(tmp_path / "one")
    assert files.name_of(handle) == str(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    assert files.name_of(handle) == str(tmp_path / "two")
    (tmp_path / "two").unlink()
    assert files.name_of(handle) != str(tmp_path / "two")
    files.close(handle)
    assert files.name_of(handle) is None
