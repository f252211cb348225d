"""A handler that changes the working directory or the umask changes nothing for the server."""

from __future__ import annotations

import signal
from pathlib import Path
from stat import S_IMODE

import pytest

from tests.support.asking import ask, eventually, peer_of, until
from tests.support.misbehaving import misbehaving
from tests.support.serving import serving

SMALL = {"JOURNAL__SEGMENT_BYTES": "4096"}
EVERYWHERE = {"STORE__URI": "db/store.sqlite", "SERVER__SOCKET": "kqs.sock", "JOURNAL__DIR": "state/journal", **SMALL}


@pytest.mark.parametrize("settings", [SMALL, EVERYWHERE], ids=["defaults", "relative paths everywhere"])
def test_a_change_of_directory_and_umask_leaves_all_files_where_and_as_they_were(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    (tmp_path / "db").mkdir()
    folder = tmp_path / settings.get("JOURNAL__DIR", "journal")
    with misbehaving(tmp_path, **settings) as server, peer_of(server) as peer:
        moved = peer.insert("chdir")
        until(server, jobs_success=1)
        before = set(folder.glob("*.kqj"))
        ids = [peer.insert("ping", "x" * 2000) for _ in range(20)]
        until(server, jobs_success=21)
        assert set(folder.glob("*.kqj")) - before
        server.stop(signal.SIGKILL)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != tmp_path and path.suffix != ".pyc"]
    assert {path.name for path in files} >= {"lock", "store.sqlite", "store.sqlite-wal"}
    assert {
        path.relative_to(tmp_path): S_IMODE(path.stat().st_mode) for path in files if S_IMODE(path.stat().st_mode) != 0o600
    } == {}
    with serving(tmp_path, **settings) as server:
        assert {ask(server, "job", job_id)["state"] for job_id in [moved, *ids]} == {"success"}
        assert server.stop() == 0
    assert not (tmp_path / "kqs.sock").exists()


def test_a_module_that_changes_them_while_it_is_loaded_leaves_the_journal_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "moving.py").write_text("import os\nos.chdir('/')\nos.umask(0o777)\n")
    with (
        serving(tmp_path, WORKER__MODULES='["kqs.builtin", "moving"]', SERVER__SOCKET="kqs.sock") as server,
        peer_of(server) as peer,
    ):
        inserted = peer.insert("ping")
        eventually(lambda: ask(server, "job", inserted), lambda job: job["state"] == "success")
        modes = {path.name: S_IMODE(path.stat().st_mode) for path in (tmp_path / "journal").iterdir()}
        assert set(modes.values()) == {0o600}
        assert S_IMODE((tmp_path / "journal").stat().st_mode) == 0o700
        assert S_IMODE((tmp_path / "kqs.sock").stat().st_mode) == 0o600
