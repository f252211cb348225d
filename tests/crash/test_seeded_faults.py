"""Errors that nothing foresees, in each of the core's callbacks: the server says so and stops; a restart has lost nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.asking import WITHIN_S, RefusedError, eventually, peer_of, until_at_least, until_said
from tests.support.serving import SERVE, SERVE_ENVIRON, Served, serving

#: ended by a fault of the software
SOFTWARE = 70
JOBS = 20

#: once it is armed, it raises in what the environment names, before that does anything or after all: the first time, or always
SEED = """
import importlib
import os
import kqs

@kqs.handler("taken")
async def taken(data):
    return data

def seed(module, owner, name, when, often):
    holder = importlib.import_module(module)
    holder = getattr(holder, owner) if owner != "-" else holder
    real, state = getattr(holder, name), {"seeded": False}

    def faulty(*args, **kwargs):
        if os.path.exists("armed") and not (state["seeded"] and often == "once"):
            state["seeded"] = True
            if when == "after":
                real(*args, **kwargs)
            raise RuntimeError("a seeded fault")
        return real(*args, **kwargs)

    setattr(holder, name, faulty)

if os.environ.get("SEEDED_FAULT"):
    seed(*os.environ["SEEDED_FAULT"].split(" "))
"""

FAULTS = {
    "the feeder takes a flushed batch": "kqs.feeder.feeder Feeder flushed before always",
    "it has taken it": "kqs.feeder.feeder Feeder flushed after always",
    "it holds a record": "kqs.feeder.held Held add before always",
    "it claims jobs in their record": "kqs.feeder.feeder Feeder before_flush before always",
    "it has claimed them": "kqs.feeder.feeder Feeder before_flush after always",
    "it makes them while they are flushed": "kqs.feeder.intake Intake ready before always",
    "it has made them": "kqs.feeder.feeder Feeder during_flush after always",
    "it claims jobs that wait": "kqs.feeder.claims Claims of_held before always",
    "such claims are flushed": "kqs.feeder.claims Claims begin_held before always",
    "the claimed are taken in": "kqs.feeder.held Held claim before always",
    "jobs claimed in the journal begin": "kqs.queue.queue Queue run_claimed before always",
    "a run ends before its job is stored": "kqs.queue.reports Reporter attach before always",
    "its end is stored with it": "kqs.queue.reports Reporter let_go before always",
    "a record is decoded": "kqs.feeder.intake Intake accepted before always",
    "the jobs go to the queue": "kqs.queue.queue Queue accept before always",
    "room is reserved": "kqs.queue.admission Admission admit before always",
    "they go to lanes": "kqs.queue.admission Reservation deliver before always",
    "they go to the broker": "kqs.broker.memory MemoryBroker put before always",
    "the store begins": "kqs.store.sqlite.session Session begin before always",
    "the store inserts": "kqs.store.sqlite.insert - _insert_plain before always",
    "the store has committed": "kqs.store.sqlite.session Session commit after always",
    "the journal's segment grows": "kqs.journal.segment Segment grow before always",
}


@contextmanager
def served(folder: Path, fault: str = "") -> Iterator[Served]:
    (folder / "seeded.py").write_text(SEED)
    environ = {**SERVE_ENVIRON, "SEEDED_FAULT": fault, "PYTHONPATH": f"{SERVE_ENVIRON['PYTHONPATH']}:{folder}"}
    with serving(folder, SERVE, environ, WORKER__MODULES='["seeded"]', WORKER__CONCURRENCY="4") as server:
        yield server


def insert_until_it_ends(server: Served, arm: Path) -> tuple[list[str], list[str]]:
    """Insert jobs that lanes take and jobs that none does, while the server lives; return the ids it acknowledged of either.

    Some meet a server that has stored all before them, so that a waiting lane claims them in their record, or, where they are
    more than there are lanes, by a record of its own; most do not.
    arm: the file that lets the fault happen; it is made on the way.
    """
    acknowledged: tuple[list[str], list[str]] = ([], [])
    with suppress(OSError, EOFError, RefusedError), peer_of(server) as peer:
        for number in range(2000):
            if number == JOBS:
                arm.touch()
            if number % 8 == 0:
                eventually(lambda: peer.call("stats")["journal_unfed_records"], (0).__eq__)
                if number >= JOBS:
                    acknowledged[0].extend(peer.call("insert", [{"type": "taken"}] * 20))
            job_id = peer.insert(("taken", "untaken")[number % 2], number)
            acknowledged[number % 2].append(job_id)
    return acknowledged


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_an_unforeseen_error_ends_the_server_and_a_restart_has_every_job(fault: str, tmp_path: Path) -> None:
    with served(tmp_path, fault) as server:
        taken, untaken = insert_until_it_ends(server, tmp_path / "armed")
        assert server.process.wait(WITHIN_S) == SOFTWARE
        assert "a seeded fault" in server.log.read_text()
    assert len(taken) + len(untaken) >= JOBS
    with served(tmp_path) as server, peer_of(server) as peer:
        until_at_least(server, jobs_success=len(taken))
        assert {peer.call("job", {"id": job_id})["id"] for job_id in taken + untaken} == {*taken, *untaken}


@pytest.mark.parametrize(
    "fault",
    ["kqs.rpc.peer Peer settle_flushed before once", "kqs.server.connection Connection wake before once"],
    ids=["its call is settled", "its connection is woken"],
)
def test_a_fault_of_one_client_keeps_no_answer_from_another(fault: str, tmp_path: Path) -> None:
    with served(tmp_path, fault) as server:
        with peer_of(server) as unlucky, peer_of(server) as other:
            (tmp_path / "armed").touch()
            unlucky.send("insert", {"type": "untaken"})
            until_said(server, "a seeded fault")
            assert len({other.insert("untaken") for _ in range(JOBS)}) == JOBS
        assert server.stop() == 0
