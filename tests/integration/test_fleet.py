"""Many servers as one queue: real ones with workers, on one MongoDB and one pool of real beanstalkds."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.asking import WITHIN_S, RefusedError, ask, eventually, peer_of, until, until_at_least
from tests.support.beanstalkd import running_beanstalkd
from tests.support.fleet import (
    Fleet,
    Line,
    Record,
    Ways,
    await_calm,
    await_state,
    every_record,
    line_to,
    record,
    record_if_known,
    run_states,
    some,
)
from tests.support.fleet_server import LEASE_S
from tests.support.mongodb import a_database, client_of
from tests.support.serving import Served
from tests.support.storm import load_on, members
from tests.support.wire_worker import WireWorker, working_at

pytestmark = pytest.mark.slow


@pytest.fixture(params=[2], ids=["two beanstalkds"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path, server_uri: str) -> Iterator[Fleet]:
    with ExitStack() as stack:
        beanstalkds = [stack.enter_context(running_beanstalkd()) for _ in range(request.param)]
        yield Fleet(tmp_path, a_database(server_uri), beanstalkds)


@pytest.mark.parametrize("fleet", [0, 1, 2], ids=["brokers of their own", "one beanstalkd", "two beanstalkds"], indirect=True)
def test_any_client_inserts_anywhere_and_any_worker_runs_anything(fleet: Fleet) -> None:
    with fleet.serving("a") as a, fleet.serving("b") as b, fleet.serving("c", WORKER__CONCURRENCY="0") as c:
        ids = [
            job_id
            for n, server in enumerate((a, b, c))
            for job_id in ask(server, "insert", some("work", range(n * 40, n * 40 + 40)))
        ]
        assert len(set(ids)) == 120
        for server in (a, b, c):
            until(server, jobs_success=120, jobs_new=0, jobs_processing=0)
        assert sorted(int(data) for _, data in fleet.runs()) == list(range(120))
        assert fleet.runners().keys() == {"a", "b"}
        for job_id in ids[::13]:
            assert record(a, job_id) == record(b, job_id) == record(c, job_id)
        pages = [ask(server, "jobs", {"limit": 500}) for server in (a, b, c)]
        assert pages[0] == pages[1] == pages[2]
        assert {job["id"] for job in pages[0]} == set(ids)


def test_a_job_is_known_everywhere_before_and_after_it_ran(fleet: Fleet) -> None:
    with fleet.serving("a", WORKER__CONCURRENCY="0") as a, fleet.serving("b") as b:
        (job_id,) = ask(a, "insert", some("work", [1], delay=3))
        record(a, job_id)
        assert record(b, job_id)["state"] == "delayed"
        until(b, jobs_delayed=1)
        seen = await_state(b, job_id, "success")
        assert record(a, job_id) == seen
        assert 0 <= seen["runs"][0]["started_at"] - seen["accepted_at"] - 3 < 5
        assert fleet.runners().keys() == {"b"}


def test_an_id_that_two_servers_are_given_is_one_job(fleet: Fleet) -> None:
    with fleet.serving("a") as a, fleet.serving("b") as b:
        for server in (a, b, a):
            assert ask(server, "insert", some("work", [1], id="mine")) == ["mine"]
        assert record(a, "mine")["state"] in ("new", "processing", "success")
        ask(b, "insert", some("work", [2]))
        until(a, jobs_success=2)
        until(b, jobs_success=2, journal_unfed_records=0)
        assert sorted(data for _, data in fleet.runs()) == ["1", "2"]


def test_retries_and_ghosts_go_round_the_fleet(fleet: Fleet) -> None:
    with fleet.serving("a") as a, fleet.serving("b") as b:
        flaky = ask(a, "insert", some("flaky", range(10)))
        vanishing = ask(b, "insert", some("vanishing", range(100, 106)))
        for job_id in flaky:
            job = await_state(b, job_id, "success")
            assert (run_states(job), job["failures"]) == (["fail", "fail", "fail", "success"], 3)
        for job_id in vanishing:
            job = await_state(a, job_id, "success")
            assert (run_states(job), job["ghosts"]) == (["ghost", "ghost", "success"], 2)
        assert fleet.runners().keys() == {"a", "b"}


def test_what_one_server_has_retried_an_owner_changes_at_any(fleet: Fleet) -> None:
    with fleet.serving("a", WORKER__CONCURRENCY="0") as a, fleet.serving("b", WORKER__CONCURRENCY="0") as b:
        ids = ask(a, "insert", some("work", range(4)))
        assert ask(a, "cancel", {"all": True})["count"] == 4
        assert ask(b, "retry", {"all": True})["count"] == 4
        assert ask(a, "cancel", ids[0])["ids"] == [ids[0]]
        assert ask(a, "delete", ids[1])["ids"] == [ids[1]]
        assert ask(a, "purge", {"type": "work"}) == 2
        assert ask(b, "retry", ids[0])["count"] == ask(b, "cancel", ids[0])["count"] == ask(a, "retry", ids[0])["count"] == 1


def test_what_a_killed_server_left_goes_on_elsewhere_after_its_lease(fleet: Fleet) -> None:
    with fleet.serving("dies") as dies, fleet.serving("lives") as lives:
        (running,) = ask(dies, "insert", some("slow", [600], at="2000-01-01T00:00:00Z"))
        (delayed,) = ask(dies, "insert", some("work", [1], delay=4))
        until(lives, jobs_processing=1, jobs_delayed=1)
        dies.stop(signal.SIGKILL)
        assert run_states(await_state(lives, delayed, "success")) == ["success"]
        assert run_states(await_state(lives, running, "success")) == ["ghost", "success"]
        until(lives, jobs_success=2, jobs_processing=0, jobs_delayed=0)


def test_a_held_run_of_a_server_that_died_is_watched_by_another_and_reported_to_any(fleet: Fleet) -> None:
    bare = {"WORKER__CONCURRENCY": "0"}
    with fleet.serving("b", **bare) as b, fleet.serving("c", **bare) as c:
        with fleet.serving("dies", **bare) as dies, working_at(dies) as worker:
            ids = ask(dies, "insert", some("foreign", range(3), ttr=3 * LEASE_S))
            runs: list[Record] = []
            while len(runs) < 3:
                runs += worker.reserve("foreign", count=3, worker="w", hold=True)
            names = {run["id"]: run["run"] for run in runs}
            dies.stop(signal.SIGKILL)
        with working_at(b) as at_b, working_at(c) as at_c:
            assert at_c.finish(names[ids[0]]) == [True]  # at once, and before anybody watches it
            eventually(lambda: ask(b, "stats")["running_remote"] + ask(c, "stats")["running_remote"], lambda count: count == 2)
            assert at_b.finish(names[ids[1]]) == at_c.finish(names[ids[1]]) == [True]
            assert [run_states(await_state(b, job_id, "success")) for job_id in ids[:2]] == [["success"]] * 2
            assert run_states(await_state(b, ids[2], "ghost")) == ["ghost"]
            assert at_b.finish(names[ids[2]]) == at_c.finish(names[ids[2]]) == ["stale"]


#: of held runs that are touched again and again: what a busy machine may take from one touch to the next, many times over
TOUCHED_TTR_S = 2.0


def test_touches_through_another_server_keep_a_held_run(fleet: Fleet) -> None:
    bare = {"WORKER__CONCURRENCY": "0"}
    with fleet.serving("a", **bare) as a, fleet.serving("b", **bare) as b:
        (job_id, other) = ask(a, "insert", some("foreign", range(2), ttr=TOUCHED_TTR_S))
        with working_at(a) as worker:
            runs: list[Record] = []
            while len(runs) < 2:
                runs += worker.reserve("foreign", count=2, worker="w", hold=True)
        token, lost = (next(run["run"] for run in runs if run["id"] == one) for one in (job_id, other))
        with working_at(a) as at_a, working_at(b) as at_b:
            for server in (at_b, at_a, at_b):
                until_s = time.monotonic() + 1.5 * TOUCHED_TTR_S  # nobody touches it elsewhere for longer than its ttr
                while time.monotonic() < until_s:
                    assert server.call("touch", {"run": token})["left"] == pytest.approx(TOUCHED_TTR_S, abs=0.2)
                    time.sleep(0.1)
            assert record(a, job_id)["ghosts"] == 0
            assert run_states(await_state(a, other, "ghost")) == ["ghost"]
            assert [code_of(at_b, "touch", lost), code_of(at_a, "touch", lost)] == ["stale", "stale"]
            assert at_b.finish(token) == [True]
            assert code_of(at_a, "touch", token) == "stale"
            assert run_states(await_state(a, job_id, "success")) == ["success"]


def code_of(worker: WireWorker, name: str, token: str) -> str:
    """Return the code of the refusal of a call."""
    with pytest.raises(RefusedError) as refused:
        worker.call(name, {"run": token})
    return refused.value.code


def test_what_only_a_dead_servers_journal_holds_waits_for_it(fleet: Fleet) -> None:
    with line_to(fleet.mongo_port) as line, fleet.serving("lives") as lives:
        with fleet.serving("dies", Ways(mongo=line)) as dies:
            line.refuse()
            (job_id,) = ask(dies, "insert", some("work", [1]))
            dies.stop(signal.SIGKILL)
        with pytest.raises(RefusedError, match="another server has not told") as refused:  # it may be alive
            record(lives, job_id)
        assert refused.value.code == "busy"
        eventually(lambda: code_of_asking(lives, job_id), lambda code: code == "not_found")
        line.mend()
        with fleet.serving("dies", Ways(mongo=line)):
            await_state(lives, job_id, "success")


def code_of_asking(server: Served, job_id: str) -> str:
    """Return the code of what a server answers to who asks for a job that it does not know."""
    with pytest.raises(RefusedError) as refused:
        record(server, job_id)
    return refused.value.code


def test_what_only_another_servers_journal_holds_is_in_its_owners_hands_everywhere(fleet: Fleet) -> None:
    bare = {"WORKER__CONCURRENCY": "0"}
    with (
        line_to(fleet.mongo_port) as line,
        fleet.serving("cut", Ways(mongo=line), **bare) as cut,
        fleet.serving("other") as other,
        ThreadPoolExecutor(9) as pool,
    ):
        line.refuse()
        seen, why, kept, gone = ask(cut, "insert", some("work", range(4), delay=60))
        (soon,) = ask(cut, "insert", some("work", ["soon"]))
        ask(cut, "insert", some("flaky", range(3), delay=60))
        ask(cut, "insert", some("slow", range(5), delay=60))
        calls: dict[str, tuple[str, object]] = {
            "job": ("job", seen),
            "explain": ("explain", why),
            "wait": ("job", {"id": soon, "wait": 20}),
            "cancel": ("cancel", kept),
            "delete": ("delete", gone),
            "cancel many": ("cancel", {"type": "flaky"}),
            "purge": ("purge", {"type": "slow"}),
        }
        answers = {name: pool.submit(ask, other, *call) for name, call in calls.items()}
        until_asked(fleet)
        line.mend()
        told = {name: answer.result() for name, answer in answers.items()}
        assert (told["job"]["state"], told["explain"]["reason"], told["wait"]["state"]) == ("delayed", "not_due", "success")
        assert (told["cancel"]["count"], told["delete"]["count"], told["cancel many"]["count"], told["purge"]) == (1, 1, 3, 5)
        assert record(cut, kept)["state"] == "cancelled"
        assert record_if_known(cut, gone) is None
        until(cut, jobs_delayed=2, jobs_cancelled=4, jobs_success=1)


def until_asked(fleet: Fleet) -> None:
    """Return when one server of a fleet has asked another whether it has stored all."""
    with client_of(fleet.uri) as client:
        servers = client.get_default_database().servers
        eventually(lambda: servers.count_documents({"asked": {"$gte": 1}}), bool)


def test_runs_of_a_server_cut_off_from_mongodb_go_on_elsewhere(fleet: Fleet) -> None:
    with line_to(fleet.mongo_port) as line, fleet.serving("cut", Ways(mongo=line)) as cut, fleet.serving("lives") as lives:
        held = ask(cut, "insert", some("slow", [6, 6]))
        until(lives, jobs_processing=2)
        line.swallow()
        late = ask(cut, "insert", some("work", [1]))
        for job_id in held:
            assert run_states(await_state(lives, job_id, "success")) == ["ghost", "success"]
        eventually(lambda: ask(cut, "health"), lambda health: not health["ok"])
        line.mend()
        await_state(lives, late[0], "success")
        until(cut, journal_unfed_records=0)
        until(cut, runs_stale=2)
        assert run_states(record(cut, late[0])) == ["success"]
        assert run_states(record(cut, held[0])) == ["ghost", "success"]


def test_jobs_of_a_server_cut_off_from_beanstalkd_run_elsewhere(fleet: Fleet) -> None:
    with ExitStack() as stack:
        lines = [stack.enter_context(line_to(port)) for port in fleet.beanstalkd_ports]
        cut = stack.enter_context(fleet.serving("cut", Ways(beanstalkds=lines), WORKER__CONCURRENCY="0"))
        lives = stack.enter_context(fleet.serving("lives"))
        for line in lines:
            line.swallow()
        ask(cut, "insert", some("work", range(50)))
        until(lives, jobs_success=50)
        assert fleet.runners() == {"lives": 50}
        for line in lines:
            line.mend()
        ask(cut, "insert", some("work", range(50, 60)))
        until(lives, jobs_success=60)


def test_a_backlog_outlives_the_server_that_fed_it_to_beanstalkd(fleet: Fleet) -> None:
    """Most of it was never put: a server keeps no more of a type in beanstalkd than `max_entries`."""
    with fleet.serving("dies", WORKER__CONCURRENCY="0", BROKER__MAX_ENTRIES="20") as dies:
        ask(dies, "insert", some("work", range(300)))
        until(dies, jobs_new=300)
        with fleet.serving("lives", WORKER__CONCURRENCY="20") as lives:
            dies.stop(signal.SIGKILL)
            until(lives, jobs_success=300)
            assert len(fleet.runs()) == 300


@pytest.mark.parametrize("fleet", [0], ids=["brokers of their own"], indirect=True)
def test_a_server_with_work_without_end_runs_what_others_accept(fleet: Fleet) -> None:
    with fleet.serving("accepts", WORKER__CONCURRENCY="0") as accepts, fleet.serving("works", WORKER__CONCURRENCY="1") as works:
        ask(works, "insert", some("slow", [0.05] * 1000))
        until(works, running=1)
        (urgent,) = ask(accepts, "insert", some("slow", [0], prio="urgent"))
        await_state(accepts, urgent, "success")
        until_at_least(works, jobs_new=100)


def test_a_server_that_was_held_up_loses_its_runs_and_nothing_else(fleet: Fleet) -> None:
    with fleet.serving("hangs") as hangs, fleet.serving("lives") as lives:
        held = ask(hangs, "insert", some("slow", [6] * 4))
        until(lives, jobs_processing=4)
        hangs.process.send_signal(signal.SIGSTOP)
        for job_id in held:
            await_state(lives, job_id, "success")
        hangs.process.send_signal(signal.SIGCONT)
        until(hangs, runs_stale=4)
        assert [run_states(record(hangs, job_id)) for job_id in held] == [["ghost", "success"]] * 4
        ask(hangs, "insert", some("work", range(20)))
        until(lives, jobs_success=24)


def test_clocks_a_minute_apart_kill_nobody_and_move_a_delay_by_no_more(fleet: Fleet) -> None:
    with fleet.serving("behind") as behind, fleet.serving("ahead", Ways(skew_s=60)) as ahead:
        began = time.monotonic()
        (early,) = ask(behind, "insert", some("work", ["early"], delay=63))
        (own,) = ask(ahead, "insert", some("work", ["own"], delay=2))
        held = [*ask(behind, "insert", some("slow", [1.5 * LEASE_S])), *ask(ahead, "insert", some("slow", [1.5 * LEASE_S]))]
        await_state(behind, own, "success")
        assert 2 <= time.monotonic() - began < 60
        await_state(behind, early, "success")
        assert 3 <= time.monotonic() - began < 60
        for job_id in held:
            assert run_states(await_state(behind, job_id, "success")) == ["success"]
        (left,) = ask(ahead, "insert", some("slow", [600]))
        await_state(behind, left, "processing")
        ahead.stop(signal.SIGKILL)
        assert run_states(await_state(behind, left, "success")) == ["ghost", "success"]


def test_who_waits_hears_of_an_end_by_a_clock_that_is_behind_however_short_it_is_kept(fleet: Fleet) -> None:
    with fleet.serving("a", WORKER__CONCURRENCY="0") as a, fleet.serving("behind", Ways(skew_s=-5)), peer_of(a) as peer:
        for data in range(5):
            peer.send("insert", {"type": "work", "data": data, "keep": 1, "wait": WITHIN_S / 2})
            job_id = peer.receive()
            assert peer.receive() == {"id": job_id, "state": "success", "result": None}


def test_who_waits_hears_that_another_server_has_deleted_the_job_at_once(fleet: Fleet) -> None:
    with fleet.serving("a", WORKER__CONCURRENCY="0") as a, fleet.serving("b", WORKER__CONCURRENCY="0") as b:
        for number in range(8):  # each is deleted sooner than most looks come
            with peer_of(a) as inserts, peer_of(a) as asks:
                inserts.send("insert", {"type": "work", "id": str(number), "wait": WITHIN_S / 2})
                assert inserts.receive() == str(number)
                await_state(b, str(number), "new")
                asks.send("job", {"id": str(number), "wait": WITHIN_S / 2})
                ask(b, "delete", {"id": str(number)})
                with pytest.raises(RefusedError) as refused:
                    inserts.receive()
                assert refused.value.code == "deleted"
                with pytest.raises(RefusedError) as refused:
                    asks.receive()
                assert refused.value.code in ("deleted", "not_found")


@pytest.mark.parametrize(
    ("skews_s", "how"),
    [((0, 50), Line.swallow), ((0, -60, 60), Line.refuse)],
    ids=["two servers, black hole", "three servers, refused"],
)
def test_nothing_is_lost_while_one_is_killed_and_one_cut_off(
    fleet: Fleet, skews_s: tuple[float, ...], how: Callable[[Line], None]
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with members(fleet, skews_s) as joined, load_on(joined) as clients:
        for _ in range(2):
            dies, cut = chance.sample(range(len(joined)), 2)
            clients[cut].await_accepted(chance.randrange(1, 20))
            joined[dies].kill()
            chance.choice(fleet.beanstalkds).restart()
            clients[cut].await_accepted(chance.randrange(1, 20))
            for line in joined[cut].lines:
                how(line)
            clients[cut].await_accepted(chance.randrange(1, 80))
            joined[dies].start()
            clients[dies].await_accepted(chance.randrange(1, 20))
            for line in joined[cut].lines:
                line.mend()
        for client in clients:
            client.stop()
        accepted = {job_id for client in clients for job_id in client.accepted}
        await_calm([member.served for member in joined])
        ended = [every_record(member.served) for member in joined]
        assert ended[0] == ended[1] == ended[-1]
        assert accepted <= ended[0].keys()
        for job in ended[0].values():
            attempts = [run["attempt"] for run in job["runs"]]
            assert attempts == sorted(set(attempts)), job
            assert run_states(job).count("success") == 1 == (job["state"] == "success"), job
            assert run_states(job)[-1] == "success", job
        for member in joined:
            until(member.served, jobs_success=len(ended[0]))
