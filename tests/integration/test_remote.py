"""Workers elsewhere, over real servers: from a job's insert to its stored end, whatever dies on the way."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.asking import RefusedError, ask, eventually, until
from tests.support.beanstalkd import running_beanstalkd
from tests.support.beanstalkd_jobs import configured
from tests.support.mongodb import a_database, mongodb
from tests.support.serving import Served, serving
from tests.support.wire_worker import WireWorker, working_at

JOB = {"type": "mail"}


def stopping(server: Served) -> threading.Thread:
    """Send SIGTERM and return when the server refuses jobs."""
    server.process.send_signal(signal.SIGTERM)
    eventually(server.log.read_text, lambda said: "waiting for remote runs" in said)
    waiter = threading.Thread(target=server.process.wait, args=(30,))
    waiter.start()
    return waiter


def states(server: Served, ids: list[str]) -> set[tuple[str, int, int, int]]:
    """State, attempt, ghosts and interrupts of jobs."""
    records = [ask(server, "job", job_id) for job_id in ids]
    return {(record["state"], record["attempt"], record["ghosts"], record["interrupted"]) for record in records}


def test_a_stop_waits_for_remote_runs_and_takes_their_reports(tmp_path: Path) -> None:
    with serving(tmp_path, WORKER__GRACE_S="20") as server, working_at(server) as worker:
        ids = worker.call("insert", [JOB] * 2)
        waiting = worker.send("reserve", {"types": ["other"], "wait": 1000})
        standing = worker.send("work", {"types": ["mail"], "room": 5})
        runs = worker.next(standing)
        while len(runs) < 2:
            runs += worker.next(standing)
        waiter = stopping(server)
        assert worker.next(waiting) == []
        assert worker.next(standing) is None
        for call in (("insert", JOB), ("reserve", {"types": ["mail"]}), ("work", {"types": ["mail"]})):
            with pytest.raises(RefusedError, match="draining"):
                worker.call(*call)
        assert worker.call("touch", {"run": runs[0]["run"]})["left"] > 29
        assert worker.finish(*(run["run"] for run in runs)) == [True, True]
        waiter.join()
        assert server.process.wait(30) == 0
    with serving(tmp_path) as server:
        assert states(server, ids) == {("success", 1, 0, 0)}


def test_a_worker_that_comes_back_in_grace_is_told_which_of_its_runs_are_to_end(tmp_path: Path) -> None:
    with serving(tmp_path, WORKER__GRACE_S="20") as server, working_at(server) as waited, working_at(server) as owner:
        owner.call("insert", [JOB] * 2)
        (_,) = waited.reserve("mail")
        with working_at(server) as gone:
            standing = gone.send("work", {"types": ["mail"], "worker": "w", "hold": True})
            (held,) = gone.next(standing)
        waiter = stopping(server)
        with working_at(server) as back:
            listening = back.send("work", {"room": 0, "worker": "w", "hold": True})
            assert owner.call("cancel", held["id"])["count"] == 1
            assert back.next(listening) == {"cancel": held["run"]}
            assert back.finish(held["run"]) == [True]
        waited.close()
        waiter.join()
        assert server.process.wait(30) == 0


def test_what_is_not_reported_within_grace_goes_back_and_costs_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, WORKER__GRACE_S="0.3") as server, working_at(server) as worker:
        (job_id,) = worker.call("insert", [JOB])
        (run,) = worker.reserve("mail")
        assert server.stop() == 0
    with serving(tmp_path) as server, working_at(server) as worker:
        assert worker.finish(run["run"]) == ["stale"]
        assert states(server, [job_id]) == {("retry", 1, 0, 1)}
        (again,) = worker.reserve("mail")
        assert (again["attempt"], again["failures"], again["ghosts"]) == (2, 0, 0)
        assert worker.finish(run["run"], again["run"]) == ["stale", True]


def test_after_kill_9_open_runs_are_ghosts_and_what_was_reported_stays_so(tmp_path: Path) -> None:
    with serving(tmp_path) as server, working_at(server) as worker:
        ids = worker.call("insert", [JOB | {"ghost_delay": 0}] * 20)
        runs: list[dict[str, Any]] = []
        while len(runs) < 20:
            runs += worker.reserve("mail", count=20)
        assert worker.finish(*(run["run"] for run in runs[:10])) == [True] * 10
        server.stop(signal.SIGKILL)
    with serving(tmp_path) as server, working_at(server) as worker:
        tokens = [run["run"] for run in runs]
        assert worker.finish(*tokens) == [True] * 10 + ["stale"] * 10
        assert worker.finish(*tokens, report="fail") == ["stale"] * 20
        again: list[dict[str, object]] = []
        while len(again) < 10:
            again += worker.reserve("mail", count=20)
        assert {run["id"] for run in again} == {run["id"] for run in runs[10:]}
        assert {(run["attempt"], run["ghosts"]) for run in again} == {(2, 1)}
        assert worker.finish(*(str(run["run"]) for run in again)) == [True] * 10
        assert worker.finish(*tokens) == [True] * 10 + ["stale"] * 10
        assert states(server, ids) == {("success", 1, 0, 0), ("success", 2, 1, 0)}
        assert ask(server, "stats")["running_remote"] == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("remote"), SERVER__MAX_CONNECTIONS="3000") as running:
        yield running


def test_whoever_waits_is_answered_after_the_end_of_input_also_behind_other_calls(server: Served) -> None:
    with working_at(server) as worker:
        reads = [worker.send("jobs", {"limit": 1}) for _ in range(30)]
        asked = [worker.send("reserve", {"types": ["never"], "wait": 1000}), worker.send("work", {"types": ["never"]})]
        answers = {answer["id"]: answer for answer in worker.end_input()}
        assert answers.keys() == {*reads, *asked}
        assert [answers[call_id]["m"] for call_id in asked] == [[], None]


def test_reports_sent_before_the_end_of_input_count_and_the_other_runs_go_back(server: Served) -> None:
    with working_at(server) as worker:
        ids = worker.call("insert", [{"type": "eof", "ghost_delay": 0}] * 2)
        runs: list[dict[str, str]] = []
        while len(runs) < 2:
            runs += worker.reserve("eof", count=2)
        finish = worker.send("finish", {"run": runs[0]["run"], "report": "ok"})
        assert [(answer["id"], answer["m"]) for answer in worker.end_input()] == [(finish, True)]
    with working_at(server) as worker:
        (again,) = worker.reserve("eof")
        assert (again["id"], again["attempt"], again["ghosts"]) == (runs[1]["id"], 2, 1)
        assert worker.finish(again["run"]) == [True]
    assert {state for state, *_ in states(server, ids)} == {"success"}


@pytest.mark.parametrize("end", ["close", "vanish"])
def test_a_lost_connection_gives_its_runs_to_the_next(server: Served, end: str) -> None:
    lost, there = WireWorker(server.port), WireWorker(server.port)
    try:
        waiting = lost.send("reserve", {"types": [f"later-{end}"], "wait": 1000})
        lost.call("insert", {"type": f"lost-{end}", "ghost_delay": 0, "ttr": 3600})
        (run,) = lost.reserve(f"lost-{end}")
        getattr(lost, end)()
        (again,) = there.reserve(f"lost-{end}")
        assert (again["id"], again["ghosts"]) == (run["id"], 1)
        assert there.finish(run["run"], again["run"]) == ["stale", True]
        there.call("insert", {"type": f"later-{end}"})
        (later,) = there.reserve(f"later-{end}")
        assert (later["attempt"], waiting) == (1, 1)
        assert there.finish(later["run"]) == [True]
    finally:
        there.close()


def test_a_report_may_come_over_any_connection(server: Served) -> None:
    with working_at(server) as worker, working_at(server) as other:
        worker.call("insert", {"type": "any"})
        (run,) = worker.reserve("any")
        assert other.call("touch", {"run": run["run"]})["cancel"] is False
        assert other.finish(run["run"]) == [True]
        assert worker.finish(run["run"]) == [True]


def test_ten_thousand_runs_are_reported_in_one_line_and_in_one_line_again(server: Served) -> None:
    with working_at(server) as worker:
        worker.call("insert", [{"type": "many", "keep": 60}] * 10_000)
        standing = worker.send("work", {"types": ["many"], "room": 10_000})
        tokens: list[str] = []
        while len(tokens) < 10_000:
            tokens += [run["run"] for run in worker.next(standing)]
        assert len(set(tokens)) == 10_000
        assert worker.finish(*tokens) == [True] * 10_000
        assert ask(server, "stats")["running_remote"] == 0
        assert worker.finish(*tokens[:1000]) == [True] * 1000
        with pytest.raises(RefusedError, match="too_large"):
            worker.finish(*tokens, tokens[0])


def test_clients_that_come_and_go_leave_nothing_behind(server: Served) -> None:
    for number in range(300):
        worker = WireWorker(server.port)
        worker.send("work", {"types": [f"gone-{number % 7}", "x"], "worker": f"w{number}"})
        worker.send("reserve", {"types": ["gone"], "wait": 604_800})
        worker.vanish() if number % 2 else worker.close()
    until(server, running_remote=0, connections=1)
    with working_at(server) as worker:
        for number in range(500):
            call_id = worker.send("work", {"types": [f"type-{number}"], "worker": f"w{number}"})
            assert worker.call("withdraw", {"call": call_id}) is True
        worker.call("insert", {"type": "gone"})
        (run,) = worker.reserve("gone")
        assert worker.finish(run["run"]) == [True]


def test_of_two_works_with_one_id_the_later_is_withdrawn_first_and_the_other_tells_of_its_runs(server: Served) -> None:
    with working_at(server) as worker, working_at(server) as owner:
        job_id = owner.call("insert", {"type": "early", "ttr": 600})
        first = worker.send("work", {"types": ["early"]})
        (run,) = worker.next(first)
        worker.say(first, "work", {"types": ["late"]})
        owner.call("insert", {"type": "late", "ttr": 600})
        (later,) = worker.next(first)
        assert worker.call("withdraw", {"call": first}) is True
        assert worker.next(first) is None
        for cancelled in (later, run):
            assert owner.call("cancel", cancelled["id"])["count"] == 1
            assert worker.next(first) == {"cancel": cancelled["run"]}
            assert worker.finish(cancelled["run"]) == [True]
        owner.call("insert", {"type": "early", "id": f"{job_id}-2"})
        assert [given["id"] for given in worker.next(first)] == [f"{job_id}-2"]
        assert worker.call("withdraw", {"call": first}) is True
        assert worker.next(first) is None
        with pytest.raises(RefusedError, match="not_found"):
            worker.call("withdraw", {"call": first})


def test_who_asks_for_nothing_hears_at_once_that_what_it_was_given_before_is_to_end(server: Served) -> None:
    with working_at(server) as worker, working_at(server) as owner:
        for listens_first in (True, False):
            job_id = owner.call("insert", {"type": "mail", "ttr": 600})
            standing = worker.send("work", {"types": ["mail"], "worker": "w"})
            (run,) = worker.next(standing)
            listening = worker.send("work", {"room": 0, "worker": "w"}) if listens_first else 0
            assert worker.call("withdraw", {"call": standing}) is True
            listening = listening or worker.send("work", {"room": 0, "worker": "w"})
            assert owner.call("cancel", job_id)["count"] == 1
            assert worker.next(listening) == {"cancel": run["run"]}
            assert worker.call("release", {"run": run["run"]}) is True
            assert owner.call("job", job_id)["state"] == "cancelled"
            waiting = owner.call("insert", {"type": "mail"})
            eventually(partial(owner.call, "explain", waiting), lambda why: why["reason"] == "no_worker")
            assert owner.call("delete", waiting)["count"] == 1
            assert worker.call("withdraw", {"call": listening}) is True


def work_through(server: Served, job_type: str) -> None:
    """Every way a run can end, each with its run again."""
    with working_at(server) as worker, working_at(server) as other:
        options = {"type": job_type, "retry_delay": 0, "ghost_delay": 0}
        ids = worker.call("insert", [options | {"data": n, "prio": n % 2} for n in range(40)])
        standing = worker.send("work", {"types": [job_type], "room": 10, "worker": "far"})
        done, ways, unbegun, prios = set[str](), iter(range(1000)), set[str](), dict[str, int]()
        while len(done) < 40:
            for run in worker.next(standing):
                way = next(ways) % 6 if run["attempt"] == 1 and run["id"] not in unbegun else 0
                if way == 1:
                    prios[run["id"]] = run["data"] % 3 * 5000
                    assert worker.call("release", {"run": run["run"], "prio": prios[run["id"]]}) is True
                elif way == 5:
                    unbegun.add(run["id"])
                    assert worker.call("release", {"run": run["run"], "begun": False}) is True
                elif way == 2:
                    assert worker.finish(run["run"], report="fail") == [True]
                elif way == 3:
                    assert worker.finish(run["run"], report="again") == [True]
                else:
                    assert worker.finish(run["run"]) == [True]
                    done.add(run["id"])
        assert done == set(ids)
        until(server, running_remote=0, jobs_success=40)
        worker.call("withdraw", {"call": standing})
        gone = WireWorker(server.port)
        asked = gone.send("reserve", {"types": [job_type], "wait": 20})
        other.call("insert", options | {"data": "last"})
        (lost,) = gone.next(asked)
        gone.vanish()
        (again,) = other.reserve(job_type)
        assert (again["id"], again["attempt"]) == (lost["id"], 2)
        assert other.finish(lost["run"], again["run"]) == ["stale", True]
        records = [ask(server, "job", job_id) for job_id in ids]
        assert {run["worker"] for record in records for run in record["runs"]} == {"far"}
        assert {record["id"]: record["options"]["prio"] for record in records if record["id"] in prios} == prios
        assert {record["attempt"] for record in records if record["id"] in unbegun} == {1}
        assert ask(server, "stats")["jobs_success"] == 41


@pytest.mark.slow
def test_over_beanstalkd_every_job_runs_to_its_end_and_odd_types_harm_nobody(tmp_path: Path) -> None:
    with running_beanstalkd() as beanstalkd, serving(tmp_path, **configured(tmp_path, beanstalkd)) as server:
        odd = WireWorker(server.port)
        for types in (["é" * 100], ["$" * 200], ["; quit"], [f"type-{number}" for number in range(1000)]):
            odd.send("work", {"types": types})
        for types in (["é" * 101], ["x" * 201], ["a\r\nquit"]):
            with pytest.raises(RefusedError, match="bad_call"):
                odd.call("reserve", {"types": types})
        work_through(server, "remote")
        odd.close()
        assert server.stop() == 0
        assert beanstalkd.ready_count() == 0


@pytest.mark.slow
def test_over_mongodb_every_job_runs_to_its_end(tmp_path: Path) -> None:
    with mongodb(tmp_path) as uri, serving(tmp_path, STORE__KIND="mongodb", STORE__URI=a_database(uri)) as server:
        work_through(server, "remote")
        assert server.stop() == 0


def test_both_dialects_share_a_connection_and_a_run(server: Served) -> None:
    def rpc(method: str, params: object) -> str:
        return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})

    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as peer, peer.makefile("rw") as lines:

        def say(line: str) -> dict[str, Any]:
            lines.write(line + "\n")
            lines.flush()
            answer: dict[str, Any] = json.loads(lines.readline())
            return answer

        say('{"n":"insert","m":{"type":"both"}}')
        run = say(rpc("reserve", {"types": ["both"], "wait": 20}))["result"][0]["run"]
        assert say(f'{{"n":"touch","m":{{"run":"{run}"}}}}')["m"]["left"] > 29
        assert say(rpc("finish", {"run": run, "report": "ok"}))["result"] is True
        assert say(f'{{"n":"finish","m":{{"run":"{run}","report":"ok"}}}}')["m"] is True
        refused = say(rpc("finish", {"run": run, "report": "again"}))["error"]
        assert refused["data"]["code"] == "stale"
        assert refused["code"] == -32000


def test_a_released_priority_and_a_run_that_never_began_over_the_wire(tmp_path: Path) -> None:
    with serving(tmp_path) as server, working_at(server) as worker:
        first, second = worker.call("insert", [{"type": "ranked"}, {"type": "ranked"}])
        (run,) = worker.reserve("ranked")
        assert (run["id"], worker.call("release", {"run": run["run"], "prio": "low"})) == (first, True)
        (other,) = worker.reserve("ranked")
        assert (other["id"], worker.call("release", {"run": other["run"], "begun": False})) == (second, True)
        assert (ask(server, "job", second)["attempt"], ask(server, "job", second)["runs"]) == (0, [])
        server.stop()
    with serving(tmp_path) as server, working_at(server) as worker:
        runs = [run for _ in range(2) for run in worker.reserve("ranked")]
        assert [(run["id"], run["attempt"]) for run in runs] == [(second, 1), (first, 2)]
        record = ask(server, "job", first)
        assert (record["options"]["prio"], record["interrupted"], record["failures"]) == (11_000, 1, 0)
        assert worker.call("release", {"run": run["run"]}) is True  # of the boot before, and repeated


@pytest.mark.parametrize(
    ("call", "report"),
    [
        ("finish", {"report": "fail", "reason": "told to stop"}),
        ("finish", {"report": "fail", "reason": "x" * 5000}),
        ("finish", {"report": "fail", "reason": ""}),
        ("finish", {"report": "again", "delay": 5}),
        ("release", {}),
    ],
)
def test_a_report_of_a_cancelled_run_may_be_repeated_and_no_other(tmp_path: Path, call: str, report: dict[str, object]) -> None:
    with serving(tmp_path) as server, working_at(server) as worker:
        job_id = worker.call("insert", {"type": "stopped"})
        (run,) = worker.reserve("stopped")
        worker.call("cancel", job_id)
        assert worker.call(call, {"run": run["run"], **report}) is True
        with working_at(server) as again:
            assert again.call(call, {"run": run["run"], **report}) is True
            others: list[dict[str, object]] = [{"report": "ok"}, {"report": "fail", "reason": "else"}]
            answers = again.call("finish", [{"run": run["run"], **other} for other in others])
            assert [answer["code"] for answer in answers] == ["stale", "stale"]
        assert ask(server, "job", job_id)["state"] == "cancelled"


def test_a_reserve_gives_no_more_data_than_a_client_reads_as_a_line(tmp_path: Path) -> None:
    with serving(tmp_path) as server, working_at(server) as worker:
        big = {"type": "big", "data": "x" * 1_000_000}
        ids = [job_id for _ in range(4) for job_id in worker.call("insert", [big] * 5)]
        until(server, jobs_new=20)
        counts, got = list[int](), list[str]()
        while len(got) < 20:
            runs = worker.reserve("big", count=1000)
            counts.append(len(runs))
            got += [run["id"] for run in runs]
        assert max(counts) == 8
        assert sorted(got) == sorted(ids)
        assert ask(server, "stats")["runs_stale"] == 0


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_held_runs_go_on_over_a_server_that_is_stopped_or_killed(tmp_path: Path, signal_number: signal.Signals) -> None:
    with serving(tmp_path) as server, working_at(server) as worker:
        ids = worker.call("insert", [JOB] * 20)
        runs: list[dict[str, str]] = []
        while len(runs) < 20:
            runs += worker.call("reserve", {"types": ["mail"], "count": 20, "wait": 10, "worker": "w", "hold": True})
        server.process.send_signal(signal_number)
        assert server.process.wait(30) == (0 if signal_number is signal.SIGTERM else -signal.SIGKILL)
    with serving(tmp_path) as server, working_at(server) as worker:
        assert ask(server, "stats")["running_remote"] == 20
        assert worker.call("touch", {"run": runs[0]["run"]})["left"] > 29
        assert worker.finish(*(run["run"] for run in runs)) == [True] * 20
        assert ask(server, "stats")["runs_done"] == 20
        assert states(server, ids) == {("success", 1, 0, 0)}
        assert {run["worker"] for run in ask(server, "job", ids[0])["runs"]} == {"w"}


def test_a_held_run_whose_worker_died_while_the_server_was_away_is_a_ghost_after_its_ttr(tmp_path: Path) -> None:
    with serving(tmp_path) as server, working_at(server) as worker:
        (job_id,) = worker.call("insert", [{"type": "mail", "ttr": 1, "ghost_delay": 60}])
        (run,) = worker.call("reserve", {"types": ["mail"], "wait": 10, "worker": "w", "hold": True})
        server.process.kill()
        server.process.wait(30)
    with serving(tmp_path) as server:
        until(server, jobs_ghost=1)
        assert states(server, [job_id]) == {("ghost", 1, 1, 0)}
        with working_at(server) as worker, pytest.raises(RefusedError, match="stale"):
            worker.call("finish", {"run": run["run"], "report": "ok"})


def test_held_runs_go_on_over_one_kill_after_another_right_after_their_claims(tmp_path: Path) -> None:
    ids: list[str] = []
    runs: dict[str, dict[str, object]] = {}
    for _ in range(5):
        with serving(tmp_path) as server, working_at(server) as worker:
            assert ask(server, "stats")["running_remote"] == len(runs)
            ids += worker.call("insert", [JOB] * 4)
            given = worker.reserve("mail", count=4, worker="w", hold=True)
            server.stop(signal.SIGKILL)
            assert not runs.keys() & {str(run["run"]) for run in given}
            runs |= {str(run["run"]): run for run in given}
    with serving(tmp_path) as server, working_at(server) as worker:
        assert worker.finish(*runs) == [True] * len(runs)
        while len(runs) < len(ids):  # those that a kill overtook before they were asked for
            given = worker.reserve("mail", count=20, worker="w", hold=True)
            assert worker.finish(*(str(run["run"]) for run in given)) == [True] * len(given)
            runs |= {str(run["run"]): run for run in given}
        assert states(server, ids) == {("success", 1, 0, 0)}


def test_what_is_held_by_nobody_who_knows_of_it_is_a_ghost_after_its_ttr(tmp_path: Path) -> None:
    with serving(tmp_path) as server, working_at(server) as worker:
        ids = worker.call("insert", [{"type": "mail", "ttr": 3, "ghost_delay": 0}] * 20)
        until(server, jobs_new=20)
        worker.send("reserve", {"types": ["mail"], "count": 20, "wait": 20, "worker": "w", "hold": True})
        until(server, running_remote=20)
        server.stop(signal.SIGKILL)  # the answer was on its way
    with serving(tmp_path) as server, working_at(server) as worker:
        assert ask(server, "stats")["running_remote"] == 20
        done = 0
        while done < 20:
            given = worker.reserve("mail", count=20, worker="w", hold=True)
            assert {run["ghosts"] for run in given} == {1}
            assert worker.finish(*(run["run"] for run in given)) == [True] * len(given)
            done += len(given)
        assert states(server, ids) == {("success", 2, 1, 0)}


def test_hold_needs_a_name(tmp_path: Path) -> None:
    with serving(tmp_path) as server, working_at(server) as worker:
        for name in ("reserve", "work"):
            with pytest.raises(RefusedError, match="bad_call"):
                worker.call(name, {"types": ["mail"], "hold": True})
