"""Small disks that are filled until no insert is taken: every accepted job runs, and the emptied server accepts again.

Held up by a gate, the jobs first pile up in journal and store; `how` the server comes to run them: it goes on, or is killed or
stopped when the disk is at its fullest, and started again.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.support.asking import Peer, RefusedError, eventually, peer_of
from tests.support.disks import small_disk
from tests.support.serving import serving

KIB, MIB = 1 << 10, 1 << 20
#: nothing was taken for so long, many times what such a server takes to find room that there is again: it is at its fullest
STILL_S = 1.5
#: a server that looks for room often: each look finds a part of what the last one found, so that many fill the disk
SOON = (sys.executable, "-m", "tests.support.small_disk_server")
FILL_WITHIN_S = 60.0
HANDLERS = """
import asyncio, os
import kqs

runs = os.open("runs.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

@kqs.handler("piled", keep=0)
async def piled(data):
    while not os.path.exists("gate"):
        await asyncio.sleep(0.05)
    os.write(runs, data["key"].encode() + b"\\n")
"""


def insert_until_full(peer: Peer, size: int) -> set[str]:
    """Insert as clients do that try again, until nothing is taken for a while; return the keys that were accepted."""
    accepted: set[str] = set()
    width = max(1, min(50, 200_000 // size))
    began = taken_at = time.monotonic()
    sent = 0
    while time.monotonic() < min(taken_at + STILL_S, began + FILL_WITHIN_S):
        for _ in range(width):
            sent += 1
            job = {"type": "piled", "data": {"key": str(sent), "pad": "x" * size}}
            peer._connection.sendall(json.dumps({"v": 1, "id": str(sent), "n": "insert", "m": job}).encode() + b"\n")
        answers = [json.loads(peer._lines.readline()) for _ in range(width)]
        ok = {answer["id"] for answer in answers if answer["s"] == "end"}
        if ok:
            taken_at = time.monotonic()
        accepted |= ok
        if len(ok) < width:
            time.sleep(0.05)
    return accepted


def ran(folder: Path) -> set[str]:
    return set((folder / "runs.log").read_text().split())


def accepts(peer: Peer) -> bool:
    try:
        peer.insert("piled", {"key": "after"})
    except RefusedError:
        return False
    return True


def check_emptied(peer: Peer, folder: Path, accepted: set[str]) -> None:
    (folder / "gate").touch()
    eventually(lambda: len(accepted - ran(folder)), lambda left: left == 0, 60, "all run")
    eventually(lambda: accepts(peer), lambda seen: seen, 30, "accepted again")


@pytest.mark.parametrize(
    ("disk_bytes", "segment_bytes", "job_bytes", "min_free_bytes", "how"),
    [
        (32 * MIB, MIB, 9_000, 4 * MIB, "goes on"),
        (32 * MIB, MIB, 9_000, 4 * MIB, "is killed"),
        (32 * MIB, MIB, 9_000, 4 * MIB, "is stopped"),
        (24 * MIB, 256 * KIB, 200, 0, "is killed"),
        (24 * MIB, 4 * MIB, 300_000, MIB, "is stopped"),
        (48 * MIB, 2 * MIB, 20_000, 8 * MIB, "goes on"),
    ],
)
def test_what_a_small_disk_took_is_run_and_it_takes_more(
    disk_bytes: int, segment_bytes: int, job_bytes: int, min_free_bytes: int, how: str, tmp_path: Path
) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    with small_disk(tmp_path, disk_bytes) as disk:
        settings = {
            "JOURNAL__DIR": str(disk.path),
            "JOURNAL__SEGMENT_BYTES": str(segment_bytes),
            "JOURNAL__MIN_FREE_BYTES": str(min_free_bytes),
            "WORKER__MODULES": '["handlers"]',
            "WORKER__GRACE_S": "0.1",
            "LOG__LEVEL": "warning",
        }
        with serving(tmp_path, disk.command(tmp_path, SOON), **settings) as server, peer_of(server) as peer:
            accepted = insert_until_full(peer, job_bytes)
            assert accepted
            if how == "goes on":
                check_emptied(peer, tmp_path, accepted)
                return
            server.stop(signal.SIGKILL if how == "is killed" else signal.SIGTERM)
        with serving(tmp_path, disk.command(tmp_path, SOON), **settings) as server, peer_of(server) as peer:
            check_emptied(peer, tmp_path, accepted)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_start_on_a_disk_that_others_filled_needs_only_what_was_kept(how: int, tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    with small_disk(tmp_path, 96 * MIB) as disk:
        settings = {"JOURNAL__DIR": str(disk.path), "JOURNAL__SEGMENT_BYTES": str(MIB), "WORKER__MODULES": '["handlers"]'}
        settings["JOURNAL__MIN_FREE_BYTES"] = "0"
        with serving(tmp_path, disk.command(tmp_path), **settings) as server, peer_of(server) as peer:
            accepted = fill_a_little(peer)
            disk.fill()
            server.stop(how)
        disk.fill()
        with serving(tmp_path, disk.command(tmp_path), **settings) as server, peer_of(server) as peer:
            (tmp_path / "gate").touch()
            eventually(lambda: len(accepted - ran(tmp_path)), lambda left: left == 0, 30, "all run")
            disk.relieve()
            eventually(lambda: accepts(peer), lambda seen: seen, 30, "accepted again")


def fill_a_little(peer: Peer) -> set[str]:
    for n in range(100):
        peer.insert("piled", {"key": str(n), "pad": "x" * 5000})
    eventually(lambda: peer.call("stats")["journal_unfed_records"], lambda seen: seen == 0)
    return {str(n) for n in range(100)}
