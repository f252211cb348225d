"""Child processes: they run what lanes run, one's end is nobody else's business, and another takes its place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.asking import ask, eventually, peer_of, until, until_at_least, until_said
from tests.support.commands import settings_of
from tests.support.processes import family, having_children, insert, pids, record_of, runs_of
from tests.support.serving import SERVE, SERVE_ENVIRON


def test_jobs_run_in_as_many_processes_as_are_asked_for_and_not_in_the_server(tmp_path: Path) -> None:
    with having_children(tmp_path, 3, WORKER__CONCURRENCY="1") as server:
        with peer_of(server) as peer:
            jobs = peer.call("insert", [{"type": "sleep", "data": 0.5} for _ in range(3)])
        ran_in = {record_of(server, job_id)["result"] for job_id in jobs}
        assert ran_in == set(pids(server))
        assert server.process.pid not in ran_in
        stats = ask(server, "stats")
        assert (stats["lanes_busy"], stats["runs_done"], stats["runs_ghost"]) == (0, 3, 0)


def test_concurrency_is_each_childs_own(tmp_path: Path) -> None:
    with having_children(tmp_path, 2, WORKER__CONCURRENCY="3") as server:
        with peer_of(server) as peer:
            peer.call("insert", [{"type": "sleep", "data": 60} for _ in range(10)])
        until(server, running=6)
        said = eventually(server.log.read_text, lambda said: said.count("begun") == 6)
        assert {said.count(f" {pid}\n") for pid in pids(server)} == {3}


def test_typed_arguments_threads_touches_and_retry_delays_are_as_everywhere(tmp_path: Path) -> None:
    with having_children(tmp_path, 1) as server:
        assert record_of(server, insert(server, "order", {"count": 3}, ttr=7))["result"] == [3, 1, 7.0, *pids(server)]
        misfit = record_of(server, insert(server, "order", {"count": "many"}), "fail")
        assert misfit["error"].startswith("data does not fit: 1 validation error for Order")
        assert record_of(server, insert(server, "touching", ttr=2))["result"] == 1
        assert record_of(server, insert(server, "sleep", 3, ttr=2, auto_touch=True))["ghosts"] == 0
        patient = record_of(server, insert(server, "patient"), "retry")
        assert patient["due_at"] == pytest.approx(patient["runs"][0]["ended_at"] + 1000, abs=5)
        limited = record_of(server, insert(server, "sleep", 60, time_limit=1, retries=0), "fail")
        assert limited["error"] == "time_limit of 1 s reached"
        until_said(server, "cancelled")


def test_a_result_that_fits_no_line_fails_its_job_and_nobody_elses_run(tmp_path: Path) -> None:
    with having_children(tmp_path, 1) as server:
        before = pids(server)
        beside = insert(server, "sleep", 1)
        deep = record_of(server, insert(server, "nested", 100, retries=0), "fail")
        assert deep["error"].endswith("it has more than 60 levels of arrays and objects")
        assert record_of(server, beside)["ghosts"] == 0
        assert record_of(server, insert(server, "nested", 60))["attempt"] == 1
        assert pids(server) == before


def test_commands_run_in_children(tmp_path: Path) -> None:
    with having_children(tmp_path, 1, TYPES__resize=settings_of("cat; cut -d' ' -f4 /proc/$PPID/stat >&2; exit 0")) as server:
        assert record_of(server, insert(server, "resize", {"width": 80}))["result"] == {"width": 80}


def test_a_command_that_cannot_be_started_is_told_in_health(tmp_path: Path) -> None:
    with having_children(tmp_path, 1, TYPES__resize='{"command": ["./nowhere.sh"]}') as server:
        assert any("'resize' cannot be started" in problem for problem in ask(server, "health")["problems"])


def test_types_choose_what_runs_here(tmp_path: Path) -> None:
    with having_children(tmp_path, 1, WORKER__TYPES='["double"]') as server:
        other = insert(server, "pid")
        assert record_of(server, insert(server, "double", 21))["result"] == 42
        assert ask(server, "job", other)["state"] == "new"


def test_with_a_concurrency_of_none_jobs_are_only_accepted(tmp_path: Path) -> None:
    with having_children(tmp_path, 0, WORKER__PROCESSES="2", WORKER__CONCURRENCY="0") as server:
        job_id = insert(server, "double", 1)
        assert "child_1_pid" not in ask(server, "stats")
        assert ask(server, "job", job_id)["state"] == "new"


def test_a_broken_module_stops_the_start_as_without_children(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nowhere\n")
    settings = {"KQS_WORKER__PROCESSES": "2", "KQS_WORKER__MODULES": '["broken"]', "KQS_SERVER__PORT": "0"}
    done = subprocess.run(SERVE, cwd=tmp_path, env=SERVE_ENVIRON | settings, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (78, 1)
    assert "[worker] modules: cannot load 'broken'" in done.stderr


def test_files_with_the_names_of_pythons_modules_in_the_folder_harm_no_child(tmp_path: Path) -> None:
    for name in ("json", "signal", "queue", "heapq"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not what was meant')\n")
    script = tmp_path / "bin" / "kqs"  # with -m Python itself would find them first
    script.parent.mkdir()
    script.write_text("from kqs.cli import main\n\nmain()\n")
    with having_children(tmp_path, 1, (sys.executable, str(script), "serve")) as server:
        assert record_of(server, insert(server, "double", 21))["result"] == 42


def test_more_types_than_a_child_can_ask_for_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "kqs.toml").write_text("".join(f'[types.t{number}]\ncommand = ["true"]\n' for number in range(1001)))
    settings = {"KQS_WORKER__PROCESSES": "1", "KQS_SERVER__PORT": "0"}
    command = [*SERVE, "--config", "kqs.toml"]
    done = subprocess.run(command, cwd=tmp_path, env=SERVE_ENVIRON | settings, capture_output=True, text=True, timeout=60)
    assert done.returncode == 78
    assert "[worker] processes: 1003 types have a handler, expected at most 1000" in done.stderr


CURED = "import kqs\n@kqs.handler('double')\nasync def double(data):\n    return 3 * data\n"


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"how": "exit", "code": 3}, "exit code 3"),
        ({"how": "exit"}, "exit code 0"),
        ({"how": "kill"}, "killed by SIGKILL"),
        ({"how": "crash"}, "killed by SIGSEGV"),
    ],
    ids=lambda value: str(value.get("how")) + str(value.get("code", "")) if isinstance(value, dict) else "",
)
def test_one_that_dies_gives_back_its_runs_at_once_and_the_others_never_notice(
    tmp_path: Path, how: dict[str, object], told: str
) -> None:
    with having_children(tmp_path, 2, WORKER__CONCURRENCY="2") as server:
        before = set(pids(server))
        with peer_of(server) as peer:
            beside = peer.call("insert", [{"type": "until", "data": "let-go", "ttr": 600} for _ in range(3)])
            until_at_least(server, running=3)
            dying = peer.insert("end", how, ttr=600)
        record = record_of(server, dying)
        assert runs_of(record) == ["ghost", "success"]
        (tmp_path / "let-go").touch()
        records = [record_of(server, job_id) for job_id in beside]
        dead = before - set(pids(server))
        assert len(dead) == 1
        for each in records:  # of two lanes each, one or two were in the child that lived
            assert each["ghosts"] == (1 if each["runs"][0]["worker"].endswith(f":{next(iter(dead))}") else 0)
        assert sum(each["ghosts"] for each in records) <= 1
        until_said(server, "a child process has died, starting another")
        until_said(server, told)
        assert until_at_least(server, children_running=2)["children_restarts"] == 1
        assert ask(server, "health")["problems"] == []


def test_one_that_runs_out_of_memory_is_no_matter_of_the_others(tmp_path: Path) -> None:
    with having_children(tmp_path, 2) as server:
        job_id = insert(server, "end", {"how": "memory"}, ttr=600, retries=3, retry_delay=0)
        assert runs_of(record_of(server, job_id))[-1] == "success"
        assert ask(server, "health")["verdict"] == "ok"
        until_at_least(server, children_running=2)


def test_one_that_a_handler_blocks_for_ever_is_killed_when_a_run_is_over_its_time(tmp_path: Path) -> None:
    with having_children(tmp_path, 1) as server:
        beside = insert(server, "sleep", 600, ttr=600, ghosts=0)
        until_said(server, "begun")
        blocked = insert(server, "end", {"how": "block"}, ttr=3)
        until_said(server, "ending block")
        until_at_least(server, runs_ghost=1)
        waiting = insert(server, "double", 1, ttr=600)
        assert runs_of(record_of(server, blocked)) == ["ghost", "success"]
        assert record_of(server, waiting)["ghosts"] == 0  # it gets no jobs while nothing is heard of it
        assert record_of(server, beside, "fail")["error"] == "the worker's connection was lost"
        until_said(server, "a handler held its event loop beyond the time of a run, so it was killed")


def test_one_whose_connection_a_handler_has_closed_is_replaced(tmp_path: Path) -> None:
    with having_children(tmp_path, 1) as server:
        record_of(server, insert(server, "close", 3))
        until_said(server, "a handler closed its connection, so it was killed")
        assert record_of(server, insert(server, "double", 21))["result"] == 42
        assert ask(server, "stats")["children_restarts"] == 1


def test_a_long_computation_within_its_time_is_let_be(tmp_path: Path) -> None:
    chores = "import kqs, time\n@kqs.handler('hold')\nasync def hold(data):\n    time.sleep(data)\n"
    (tmp_path / "holding.py").write_text(chores)
    with having_children(tmp_path, 1, WORKER__MODULES='["holding"]') as server:
        assert runs_of(record_of(server, insert(server, "hold", 6))) == ["success"]
        assert ask(server, "stats")["children_restarts"] == 0


def test_one_whose_minder_is_killed_is_replaced(tmp_path: Path) -> None:
    with having_children(tmp_path, 1) as server:
        (pid,) = pids(server)
        minder = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        keeper = int(Path(f"/proc/{minder}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(keeper, signal.SIGKILL)
        until_said(server, "the helper process of child processes was killed")
        os.kill(minder, signal.SIGKILL)
        eventually(lambda: pids(server), lambda found: found not in ([], [pid]))
        eventually(lambda: Path(f"/proc/{pid}").exists(), lambda there: not there)
        assert record_of(server, insert(server, "double", 2))["result"] == 4


def test_a_crash_loop_is_backed_off_and_health_tells(tmp_path: Path) -> None:
    with having_children(tmp_path, 1) as server:
        began = time.monotonic()
        jobs = [insert(server, "end", {"how": "exit", "code": 7, "once": False}, ghosts=-1, ghost_delay=0) for _ in range(3)]
        eventually(
            lambda: ask(server, "health")["problems"],
            lambda problems: any("child 1" in problem and "exit code 7" in problem for problem in problems),
        )
        until_at_least(server, children_restarts=6)
        assert time.monotonic() - began > 3  # the five pauses alone: 0.1 s, and twice as long each time
        assert {ask(server, "job", job_id)["state"] for job_id in jobs} <= {"new", "ghost", "processing", "retry"}


def test_one_that_cannot_be_imported_is_told_in_the_log_and_in_health(tmp_path: Path) -> None:
    with having_children(tmp_path, 1) as server:
        (tmp_path / "chores.py").write_text("import nowhere\n")
        (child,) = pids(server)
        os.kill(child, signal.SIGKILL)
        until_said(server, "a child process cannot start, trying again")
        (problem,) = eventually(
            lambda: ask(server, "health")["problems"], lambda problems: any("nowhere" in each for each in problems)
        )
        assert "child 1" in problem
        insert(server, "double", 1)
        assert [note for note in ask(server, "health")["notes"] if "no handler" in note] == []
        assert "[worker] modules: cannot load 'chores': ModuleNotFoundError: No module named 'nowhere'" in problem
        (tmp_path / "chores.py").write_text(CURED)
        assert record_of(server, insert(server, "double", 2))["result"] == 6


def test_each_begins_so_many_jobs_and_no_more(tmp_path: Path) -> None:
    with having_children(tmp_path, 2, WORKER__MAX_JOBS="7") as server:
        with peer_of(server) as peer:
            jobs = peer.call("insert", [{"type": "pid"} for _ in range(60)])
        records = [record_of(server, job_id) for job_id in jobs]
        ran_in = [record["result"] for record in records]
        assert max(ran_in.count(pid) for pid in set(ran_in)) <= 7
        assert {record["ghosts"] for record in records} == {0}
        stats = ask(server, "stats")
        assert (stats["children_restarts"], stats["runs_ghost"]) == (0, 0)
        assert stats["children_recycled"] >= 7


def test_one_that_is_worn_finishes_what_runs_however_long_while_another_works(tmp_path: Path) -> None:
    with having_children(tmp_path, 1, WORKER__MAX_JOBS="2", WORKER__GRACE_S="0.1") as server:
        long = insert(server, "until", "let-go", ttr=600)
        until_said(server, "begun")
        (worn,) = pids(server)
        assert record_of(server, insert(server, "pid"))["result"] == worn
        assert record_of(server, insert(server, "pid"))["result"] != worn
        assert ask(server, "job", long)["state"] == "processing"
        assert ask(server, "stats")["children_leaving"] == 1
        (tmp_path / "let-go").touch()
        record = record_of(server, long)
        assert (record["result"], runs_of(record)) == (worn, ["success"])
        until(server, children_leaving=0)


def test_not_more_than_twice_as_many_are_there_when_all_are_worn(tmp_path: Path) -> None:
    with having_children(tmp_path, 1, WORKER__MAX_JOBS="1") as server:
        jobs = [insert(server, "until", "let-go", ttr=600) for _ in range(4)]
        until(server, running=2, children_leaving=2, children_running=0)
        assert len(family(server)) == 1 + 2 * 2  # the keeper, and each with its minder
        (tmp_path / "let-go").touch()
        records = [record_of(server, job_id) for job_id in jobs]
        assert len({record["result"] for record in records}) == 4
        assert {record["ghosts"] for record in records} == {0}


def test_one_that_takes_too_much_memory_is_replaced(tmp_path: Path) -> None:
    with having_children(tmp_path, 1, WORKER__MAX_RSS_BYTES="200000000") as server:
        first = record_of(server, insert(server, "eat", 300_000_000))["result"]
        until_said(server, "reason=max_rss_bytes")
        until(server, children_recycled=1, children_leaving=0, children_running=1)
        assert record_of(server, insert(server, "pid"))["result"] != first
        assert ask(server, "stats")["runs_ghost"] == 0


def test_a_limit_below_what_one_takes_at_rest_lets_jobs_run_and_is_told(tmp_path: Path) -> None:
    with having_children(tmp_path, 1, WORKER__MAX_RSS_BYTES="1000") as server:
        for _ in range(3):
            record_of(server, insert(server, "pid"))
            until_at_least(server, children_recycled=1)
        eventually(
            lambda: ask(server, "health")["problems"],
            lambda problems: any("more memory than max_rss_bytes soon after its start" in each for each in problems),
        )


def test_one_that_is_asked_to_end_is_replaced_without_a_ghost(tmp_path: Path) -> None:
    with having_children(tmp_path, 1) as server:
        job_id = insert(server, "sleep", 1)
        until_said(server, "begun")
        (child,) = pids(server)
        os.kill(child, signal.SIGTERM)
        assert runs_of(record_of(server, job_id)) == ["success"]
        assert record_of(server, insert(server, "double", 4))["result"] == 8
        assert ask(server, "stats")["runs_ghost"] == 0


def test_what_clients_may_send_does_not_bound_what_children_do(tmp_path: Path) -> None:
    with having_children(tmp_path, 1, SERVER__MAX_LINE_BYTES="1024", WORKER__CONCURRENCY="60") as server:
        with peer_of(server) as peer:
            jobs = [peer.insert("sleep", 4, ttr=2, auto_touch=True) for _ in range(60)]  # whose touches go out together
        assert {record_of(server, job_id)["ghosts"] for job_id in jobs} == {0}
        assert "PATH" in record_of(server, insert(server, "environ"))["result"]


def test_children_that_are_held_for_a_while_are_not_cut_off_for_what_they_were_given(tmp_path: Path) -> None:
    with having_children(tmp_path, 2, WORKER__CONCURRENCY="4") as server:
        with peer_of(server) as peer:
            jobs = [peer.insert("hold", "x" * (12 * 1024 * 1024), ttr=60) for _ in range(6)]
        assert [len(runs_of(record_of(server, job_id))) for job_id in jobs] == [1] * 6
        assert ask(server, "stats")["connections_aborted"] == 0
