"""Whether the store's files stand under their names, with and without a system that tells an open file's name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kqs.errors import StoreUnavailableError
from kqs.store.sqlite.connection import LEAST_WAL_BYTES
from kqs.store.sqlite.opened_files import OpenedFiles


@pytest.fixture(params=["names are told", "names are not told"])
def files(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenedFiles:
    """Of `s`, in a folder `store`, and its WAL of 4 MiB."""
    if request.param == "names are not told":
        monkeypatch.setattr("kqs.store.sqlite.opened_files.name_of", lambda _handle: None)
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "s").write_bytes(bytes(8192))
    (folder / "s-wal").write_bytes(bytes(LEAST_WAL_BYTES * 16))
    files = OpenedFiles(folder / "s")
    files.opened()
    return files


def replaced(path: Path) -> None:
    shutil.copy(path, path.with_suffix(".copy"))
    path.with_suffix(".copy").replace(path)


def moved_away(path: Path) -> None:
    path.rename(path.with_suffix(".old"))


def moved_with_its_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_suffix(".old"))


def linked(path: Path) -> None:
    moved_away(path)
    path.symlink_to(path.with_suffix(".old"))


@pytest.mark.parametrize("name", ["s", "s-wal"])
@pytest.mark.parametrize("lose", [Path.unlink, replaced, moved_away, moved_with_its_folder, linked])
def test_a_file_that_has_lost_its_name_is_noticed(
    files: OpenedFiles, tmp_path: Path, name: str, lose: Callable[[Path], None]
) -> None:
    files.check()
    lose(tmp_path / "store" / name)
    with pytest.raises(StoreUnavailableError, match="was removed or replaced"):
        files.check()


@pytest.mark.parametrize("name", ["s", "s-wal"])
def test_a_file_that_was_cut_short_is_noticed(files: OpenedFiles, tmp_path: Path, name: str) -> None:
    os.truncate(tmp_path / "store" / name, 0)
    with pytest.raises(StoreUnavailableError, match="was cut short"):
        files.check()


def test_a_wal_may_grow_and_be_begun_anew(files: OpenedFiles, tmp_path: Path) -> None:
    for size in (LEAST_WAL_BYTES * 32, LEAST_WAL_BYTES):
        os.truncate(tmp_path / "store" / "s-wal", size)
        files.check()
    files.about_to_empty_wal()
    os.truncate(tmp_path / "store" / "s-wal", 0)
    files.check()


@pytest.mark.parametrize("is_told", [True, False], ids=["closed", "dropped"])
def test_a_wal_is_open_no_more_once_its_store_is(tmp_path: Path, is_told: bool) -> None:
    (tmp_path / "s").write_bytes(bytes(8192))
    (tmp_path / "s-wal").write_bytes(bytes(8192))
    files = OpenedFiles(tmp_path / "s")
    for _ in range(2):
        files.opened()
    assert open_times(tmp_path / "s-wal") == 1
    if is_told:
        files.about_to_close()
    else:
        del files
    assert open_times(tmp_path / "s-wal") == 0


def open_times(path: Path) -> int:
    handles = [handle for handle in Path("/proc/self/fd").iterdir() if os.path.lexists(handle)]
    return [handle.readlink() for handle in handles].count(path)
