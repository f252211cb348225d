"""Journals of real servers, killed or stopped, that are damaged or put out of order: verify, repair and start agree."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.asking import ask, peer_of, until
from tests.support.serving import SERVE_ENVIRON, free_port, serving

HANDLERS = """
import os
import kqs

runs = os.open("runs.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

@kqs.handler("noted")
async def noted(data):
    os.write(runs, f"{data['n']}\\n".encode())
"""
SETTINGS = {"WORKER__MODULES": '["handlers"]', "JOURNAL__SEGMENT_BYTES": "1024"}
JOBS = 12


@pytest.fixture(autouse=True)
def handlers(tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)


def run_jobs(folder: Path, how: int, *, is_quiet: bool, count: int = JOBS) -> None:
    """Run jobs to their end, one a record, and end the server; is_quiet: once its checkpoint has moved."""
    with serving(folder, **SETTINGS) as server:
        with peer_of(server) as peer:
            for n in range(count):
                peer.insert("noted", {"n": n, "pad": "x" * 150})
        until(server, jobs_success=count)
        if is_quiet:
            until(server, journal_checkpoint_seq=count)
        server.stop(how)


def kqs(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kqs", *args],
        cwd=folder,
        env={**SERVE_ENVIRON, "KQS_SERVER__PORT": str(free_port()), **{f"KQS_{key}": value for key, value in SETTINGS.items()}},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def last_segment(folder: Path) -> Path:
    return max((folder / "journal").glob("*.kqj"))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def flip_in_last_batch(path: Path) -> None:
    flip(path, len(path.read_bytes().rstrip(b"\0")) - 10)


def flip_in_its_header(path: Path) -> None:
    flip(path, path.read_bytes().rindex(b"\xffKQ\xf1") + 9)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: len(path.read_bytes().rstrip(b"\0")) // 2])


def cut_to_its_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:128])


def cut_to_nothing(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


DAMAGES = (flip_in_last_batch, flip_in_its_header, cut_in_half, cut_to_its_header, cut_to_nothing, remove)


def new_job_runs(folder: Path) -> None:
    with serving(folder, **SETTINGS) as server:
        done = ask(server, "stats")["jobs_success"]
        ask(server, "insert", {"type": "noted", "data": {"n": "new"}})
        until(server, jobs_success=done + 1, journal_unfed_records=0)
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("damage", "how", "is_quiet"),
    [
        *((damage, signal.SIGKILL, False) for damage in DAMAGES),
        *((damage, signal.SIGKILL, True) for damage in DAMAGES[::2]),
        *((damage, signal.SIGTERM, False) for damage in DAMAGES[1::2]),
    ],
)
def test_damage_at_the_end_of_a_journal_hinders_no_start_while_the_store_has_it(
    damage: Callable[[Path], None], how: int, is_quiet: bool, tmp_path: Path
) -> None:
    run_jobs(tmp_path, how, is_quiet=is_quiet)
    for _ in range(2):
        if damage in (remove, cut_to_nothing) and len(list((tmp_path / "journal").glob("*.kqj"))) == 1:
            return  # the only segment: whose journal it was, nothing says
        damage(last_segment(tmp_path))
        assert kqs(tmp_path, "journal", "verify", "journal").returncode == 0
        new_job_runs(tmp_path)
    damage(last_segment(tmp_path))
    assert kqs(tmp_path, "journal", "repair", "journal").returncode == 0
    new_job_runs(tmp_path)
    ran = (tmp_path / "runs.log").read_text().split()
    assert sorted(ran) == sorted([str(n) for n in range(JOBS)] + ["new"] * 3)


def disorder(folder: Path, what: str) -> None:
    segments = sorted((folder / "journal").glob("*.kqj"))
    one, other = segments[1], segments[2]
    if what == "copied":
        shutil.copy(one, one.with_name("000000000099.kqj"))
    elif what == "moved":
        one.rename(one.with_name("000000000099.kqj"))
    elif what == "linked":
        one.with_name("000000000099.kqj").hardlink_to(one)
    else:
        one.rename(one.with_name("aside"))
        other.rename(one)
        one.with_name("aside").rename(other)


@pytest.mark.parametrize("what", ["copied", "moved", "swapped", "linked"])
def test_segments_out_of_order_are_named_and_put_right_and_every_job_runs_once(what: str, tmp_path: Path) -> None:
    with serving(tmp_path, **SETTINGS | {"WORKER__CONCURRENCY": "0"}) as server, peer_of(server) as peer:
        for n in range(JOBS):
            peer.insert("noted", {"n": n, "pad": "x" * 150})
        server.stop(signal.SIGKILL)
    for path in (tmp_path / "journal").glob("store.sqlite*"):
        path.unlink()
    (tmp_path / "journal/checkpoint").unlink(missing_ok=True)
    disorder(tmp_path, what)
    wrong = "000000000002.kqj" if what == "swapped" else "000000000099.kqj"
    ended = kqs(tmp_path, "serve")
    assert (ended.returncode, ended.stderr.count("\n")) == (65, 1), ended.stderr
    assert f"{wrong}:0 this is segment" in ended.stderr
    assert f"`kqs journal repair {tmp_path / 'journal'}`" in ended.stderr
    assert kqs(tmp_path, "journal", "verify", "journal").returncode == 65
    for _ in range(2):
        repaired = kqs(tmp_path, "journal", "repair", "journal")
        assert repaired.returncode == 0
        assert "lost" not in repaired.stdout
    with serving(tmp_path, **SETTINGS) as server:
        until(server, jobs_success=JOBS)
        assert server.stop() == 0
    assert sorted((tmp_path / "runs.log").read_text().split(), key=int) == [str(n) for n in range(JOBS)]


def put_a_link(path: Path) -> None:
    path.rename(path.parent.parent / path.name)
    path.symlink_to(path.parent.parent / path.name)


def put_a_folder(path: Path) -> None:
    path.rename(path.parent.parent / path.name)
    path.mkdir()


def put_a_pipe(path: Path) -> None:
    path.rename(path.parent.parent / path.name)
    os.mkfifo(path)


def put_back(path: Path) -> None:
    path.rmdir() if path.is_dir() else path.unlink()
    (path.parent.parent / path.name).rename(path)


@pytest.mark.parametrize("put", [put_a_link, put_a_folder, put_a_pipe])
@pytest.mark.parametrize("is_segment", [True, False], ids=["the last segment", "the checkpoint"])
def test_what_is_no_file_in_a_file_s_place_is_named_and_loses_nothing(
    tmp_path: Path, put: Callable[[Path], None], is_segment: bool
) -> None:
    run_jobs(tmp_path, signal.SIGKILL, is_quiet=True)
    place = last_segment(tmp_path) if is_segment else tmp_path / "journal" / "checkpoint"
    put(place)
    for command in (["serve"], ["journal", "verify", "journal"], ["journal", "repair", "journal"]):
        refused = kqs(tmp_path, *command)
        said = [line for line in refused.stderr.splitlines() if line.startswith("kqs: ")]
        assert (refused.returncode, len(said)) == (74, 1)
        assert said[0].endswith(f"journal/{place.name} is no regular file: put the journal's own file back in its place")
    put_back(place)
    assert kqs(tmp_path, "journal", "verify", "journal").returncode == 0
    new_job_runs(tmp_path)
