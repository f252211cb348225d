"""Remote workers of many servers that are one queue: a token is good at any of them, a held run outlives the one it is of."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median_low
from typing import Any

import pytest

from tests.support.asking import RefusedError, until
from tests.support.fleet import Fleet, Ways, line_to, record, run_states
from tests.support.fleet_server import LEASE_S
from tests.support.mongodb import a_database
from tests.support.serving import Served
from tests.support.wire_worker import WireWorker, working_at

pytestmark = pytest.mark.slow

NO_LANES = {"WORKER__CONCURRENCY": "0"}
#: of held runs: longer than the others take to notice that a server is dead, and to be asked a few times
TTR_S = 3 * LEASE_S
HOLD = {"worker": "holder", "hold": True}


@pytest.fixture
def fleet(tmp_path: Path, server_uri: str) -> Fleet:
    return Fleet(tmp_path, a_database(server_uri), [])


def given(worker: WireWorker, count: int = 1, *, hold: bool = False, **options: object) -> list[dict[str, Any]]:
    """Insert jobs and take their runs."""
    worker.call("insert", [{"type": "remote", "ghost_delay": 0, "ttr": TTR_S, **options}] * count)
    runs: list[dict[str, Any]] = []
    while len(runs) < count:
        runs += worker.reserve("remote", count=count, **(HOLD if hold else {"worker": "worker"}))
    return runs


def touched(worker: WireWorker, token: str) -> str:
    """Return how a touch is answered: its code, or nothing if it is taken."""
    try:
        assert worker.call("touch", {"run": token})["left"] > TTR_S - 1
    except RefusedError as refusal:
        return refusal.code
    return ""


def until_watched(server: Served, count: int) -> None:
    until(server, running_remote=count)


def states(server: Served, runs: list[dict[str, Any]]) -> set[tuple[str, ...]]:
    return {tuple(run_states(record(server, run["id"]))) for run in runs}


def test_a_report_is_taken_by_any_server_and_only_once(fleet: Fleet) -> None:
    with ExitStack() as stack:
        a, b, c = (stack.enter_context(fleet.serving(name, **NO_LANES)) for name in "abc")
        workers = [stack.enter_context(working_at(server)) for server in (a, b, c)]
        runs = given(workers[0], 5)
        tokens = [run["run"] for run in runs]
        assert workers[1].finish(*tokens) == [True] * 5
        for one in workers:
            assert one.finish(*tokens, report="fail") == ["stale"] * 5
        for one in reversed(workers):
            assert one.finish(*tokens) == [True] * 5
        assert states(a, runs) == states(b, runs) == states(c, runs) == {("success",)}


@pytest.mark.parametrize("report", ["again", "fail"])
def test_what_was_reported_elsewhere_goes_on_and_its_token_is_stale(fleet: Fleet, report: str) -> None:
    with fleet.serving("a", **NO_LANES) as a, fleet.serving("b", **NO_LANES) as b, working_at(b) as other:
        with working_at(a) as worker:
            (run,) = given(worker, retry_delay=0)
            assert other.finish(run["run"], report=report) == [True]
            (again,) = other.reserve("remote")
            assert (again["id"], again["attempt"]) == (run["id"], 2)
            assert worker.finish(run["run"]) == other.finish(run["run"]) == ["stale"]
        assert other.finish(again["run"]) == [True]  # the loss of the first connection has changed nothing
        assert record(b, run["id"]) == record(a, run["id"])
        assert [done["attempt"] for done in record(b, run["id"])["runs"]] == [1, 2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_held_run_of_a_server_that_is_gone_goes_on_at_another(fleet: Fleet, number: signal.Signals) -> None:
    with fleet.serving("dies", **NO_LANES) as dies, fleet.serving("lives", **NO_LANES) as lives:
        with working_at(dies) as worker:
            runs = given(worker, 20, hold=True)
            dies.stop(number)
        with working_at(lives) as worker:
            assert touched(worker, runs[0]["run"]) in ("", "busy")  # whoever watches over it: it is not over
            until_watched(lives, 20)
            assert touched(worker, runs[0]["run"]) == ""
            assert worker.finish(*(run["run"] for run in runs)) == [True] * 20
        assert states(lives, runs) == {("success",)}
        assert {done["worker"] for done in record(lives, runs[0]["id"])["runs"]} == {"holder"}
        with fleet.serving("dies", **NO_LANES) as again, working_at(again) as worker:
            assert worker.finish(*(run["run"] for run in runs)) == [True] * 20
            assert states(again, runs) == {("success",)}


def test_a_held_run_is_reported_before_anybody_watches_over_it(fleet: Fleet) -> None:
    with fleet.serving("dies", **NO_LANES) as dies, fleet.serving("lives", **NO_LANES) as lives, working_at(lives) as other:
        with working_at(dies) as worker:
            runs = given(worker, 3, hold=True)
            dies.stop(signal.SIGKILL)
        assert other.finish(*(run["run"] for run in runs)) == [True] * 3
        with fleet.serving("dies", **NO_LANES) as again:
            until_watched(again, 0)
            assert states(again, runs) == {("success",)}
        assert states(lives, runs) == {("success",)}


def test_a_held_run_whose_worker_died_with_its_server_is_a_ghost_after_its_ttr(fleet: Fleet) -> None:
    with fleet.serving("dies", **NO_LANES) as dies, fleet.serving("lives", **NO_LANES) as lives, working_at(lives) as other:
        with working_at(dies) as worker:
            (run,) = given(worker, hold=True, ttr=3)
            dies.stop(signal.SIGKILL)
        (again,) = other.reserve("remote")
        assert (again["id"], again["attempt"], again["ghosts"]) == (run["id"], 2, 1)
        assert other.finish(run["run"], again["run"]) == ["stale", True]
        assert states(lives, [run]) == {("ghost", "success")}


def test_a_worker_moves_from_a_dead_server_to_another_and_what_it_did_not_hold_runs_again(fleet: Fleet) -> None:
    with fleet.serving("dies", **NO_LANES) as dies, fleet.serving("lives", **NO_LANES) as lives:
        with working_at(dies) as worker:
            runs = given(worker, 3)
            dies.stop(signal.SIGKILL)
            with pytest.raises((EOFError, OSError)):
                worker.finish(runs[0]["run"])
        with working_at(lives) as worker:
            assert worker.finish(runs[0]["run"]) == [True]  # nobody has given it back yet
            again = [worker.reserve("remote")[0] for _ in range(2)]
            assert {run["id"] for run in again} == {run["id"] for run in runs[1:]}
            assert worker.finish(runs[1]["run"], *(run["run"] for run in again)) == ["stale", True, True]
        assert states(lives, runs[:1]) == {("success",)}
        assert states(lives, runs[1:]) == {("ghost", "success")}


def test_a_held_run_is_not_lost_to_a_server_that_was_held_up_and_comes_back(fleet: Fleet) -> None:
    with fleet.serving("hangs", **NO_LANES) as hangs, fleet.serving("lives", **NO_LANES) as lives, working_at(lives) as other:
        with working_at(hangs) as worker:
            runs = given(worker, 5, hold=True)
            hangs.process.send_signal(signal.SIGSTOP)
            try:
                until_watched(lives, 5)
                assert [touched(other, run["run"]) for run in runs] == [""] * 5
                assert other.finish(runs[0]["run"]) == [True]
            finally:
                hangs.process.send_signal(signal.SIGCONT)
            assert worker.finish(runs[1]["run"]) == [True]
        assert other.finish(*(run["run"] for run in runs)) == [True] * 5
        assert states(lives, runs) == states(hangs, runs) == {("success",)}


def test_a_held_run_is_touched_at_any_server_and_another_where_it_was_given(fleet: Fleet) -> None:
    with ExitStack() as stack:
        a, b = (stack.enter_context(fleet.serving(name, **NO_LANES)) for name in "ab")
        worker, other = (stack.enter_context(working_at(server)) for server in (a, b))
        for token, elsewhere in ((given(worker, hold=True)[0]["run"], ""), (given(worker)[0]["run"], "stale")):
            assert (touched(worker, token), touched(other, token)) == ("", elsewhere)
            assert worker.finish(token) == [True]
            assert (touched(worker, token), touched(other, token)) == ("stale", "stale")


@pytest.mark.parametrize("hold", [False, True])
def test_any_server_takes_a_run_back_and_only_once(fleet: Fleet, hold: bool) -> None:
    with fleet.serving("a", **NO_LANES) as a, fleet.serving("b", **NO_LANES) as b, working_at(b) as other:
        with working_at(a) as worker:
            (run,) = given(worker, hold=hold)
            assert other.call("release", {"run": run["run"]}) is True
            assert other.call("release", {"run": run["run"]}) is True  # repeated
            (again,) = other.reserve("remote")
            assert (again["id"], again["attempt"], again["failures"]) == (run["id"], 2, 0)
        assert other.finish(run["run"], again["run"]) == ["stale", True]
        assert states(b, [run]) == {("interrupted", "success")}


@pytest.mark.parametrize("hold", [False, True])
def test_any_server_takes_back_a_run_that_never_began_as_if_it_had_not_been_given(fleet: Fleet, hold: bool) -> None:
    with fleet.serving("a", **NO_LANES) as a, fleet.serving("b", **NO_LANES) as b, working_at(b) as other:
        with working_at(a) as worker:
            (run,) = given(worker, hold=hold)
            assert other.call("release", {"run": run["run"], "begun": False}) is True
            left = record(b, run["id"])
            assert (left["state"], left["attempt"], left["interrupted"], left["runs"]) == ("new", 0, 0, [])
            (again,) = other.reserve("remote")
            assert (again["id"], again["attempt"]) == (run["id"], 1)
            assert worker.finish(run["run"]) == ["stale"]
        assert other.finish(run["run"], again["run"]) == ["stale", True]
        assert states(b, [run]) == {("success",)}


def test_a_held_run_waits_for_a_server_that_has_no_store_yet(fleet: Fleet) -> None:
    with line_to(fleet.mongo_port) as line:
        with fleet.serving("a", Ways(mongo=line), **NO_LANES) as a, working_at(a) as worker:
            runs = given(worker, 2, hold=True)
            tokens = [run["run"] for run in runs]
            line.refuse()
            a.stop(signal.SIGKILL)
        with fleet.serving("a", Ways(mongo=line), **NO_LANES) as a, working_at(a) as worker:
            assert touched(worker, tokens[0]) == "busy"
            assert worker.finish(tokens[0]) == ["busy"]
            line.mend()
            until_watched(a, 2)
            assert touched(worker, tokens[0]) == ""
            assert worker.finish(*tokens) == [True, True]
            assert states(a, runs) == {("success",)}


def test_a_job_that_ends_on_another_server_is_told_to_who_waits_within_half_a_second(fleet: Fleet) -> None:
    with ExitStack() as stack:
        a, b = (stack.enter_context(fleet.serving(name, **NO_LANES)) for name in "ab")
        client, worker = stack.enter_context(working_at(a)), stack.enter_context(working_at(b))
        waits_s: list[float] = []
        for fields in ({}, {"keep": 0}, {"id": "mine"}, {"id": "mine"}):
            number = client.send("insert", {"type": "remote", "wait": 30, **fields})
            job_id = client.next(number)
            if fields and job_id == "mine" and record(a, "mine")["state"] == "success":
                assert client.next(number)["state"] == "success"
                continue
            (run,) = worker.reserve("remote", worker="worker")
            worker.finish(run["run"])
            reported_at = time.monotonic()
            assert client.next(number) == {"id": job_id, "state": "success", "result": None}
            waits_s.append(time.monotonic() - reported_at)
        assert median_low(waits_s) < 1.0  # half a second, and what a busy machine takes


def test_a_run_whose_job_is_deleted_at_another_server_has_that_end_where_it_ran(fleet: Fleet) -> None:
    with ExitStack() as stack:
        a, b = (stack.enter_context(fleet.serving(name, **NO_LANES)) for name in "ab")
        worker, listener, owner = (stack.enter_context(working_at(server)) for server in (a, a, b))
        listening = listener.send("events", {"types": ["mourned"], "events": ["started", "deleted"]})
        job_id = worker.call("insert", {"type": "mourned", "ttr": 600})
        (run,) = worker.reserve("mourned")
        assert owner.call("delete", {"id": job_id, "force": True})["count"] == 1
        told = [listener.next(listening) for _ in range(2)]
        assert [(event["event"], event["id"], event["attempt"]) for event in told] == [
            ("started", job_id, 1),
            ("deleted", job_id, 1),
        ]
        assert worker.finish(run["run"]) == ["stale"]
