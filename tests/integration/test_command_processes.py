"""Commands as processes: whatever one does, its run ends, and nothing is left of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from kqs.commands import minders
from kqs.executor import Executor
from kqs.minding.tree import descendants
from kqs.outcome import Again, Failed, Ok, Outcome
from tests.support.commands import alive, handler_of, nap, run_command
from tests.support.helper_processes import (  # noqa: F401 - fixtures of every test here
    WITHIN_S,
    helper_processes_are_measured,
    helpers,
    servers_of_other_tests_are_not_ours,
    until,
)
from tests.support.supervising import StrictSupervisor


@pytest.fixture
async def executor() -> AsyncIterator[Executor]:
    executor = Executor(4, StrictSupervisor())
    yield executor
    executor.close()
    await executor.wait_closed()
    await until(lambda: helpers() == [])


@pytest.fixture
def run(executor: Executor, tmp_path: Path) -> Callable[..., Any]:
    async def run(script: str, data: bytes = b"null", **limits: int) -> Outcome:
        handler = handler_of(["sh", "-c", script], tmp_path, **{"output_bytes": 1000} | limits)
        async with asyncio.timeout(WITHIN_S):
            return await run_command(executor, handler, data)

    return run


def descriptor_count() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_data_comes_on_stdin_and_json_goes_back(run: Any) -> None:
    assert await run("cat", b'{"width": 80,\n"name": "\xc3\xa9"}') == Ok(b'{"width":80,"name":"\xc3\xa9"}')
    assert await run("echo hello") == Ok(b'"hello"')
    assert await run("true", b"[1]") == Ok()


async def test_the_exit_code_is_the_verdict(run: Any) -> None:
    assert await run("exit 75") == Again()
    assert await run("echo 2.5; exit 75") == Again(2.5)
    assert await run("echo lost >&2; exit 3") == Failed("exit code 3: lost")
    assert await run("echo out; kill -TERM $$") == Failed("killed by SIGTERM")


async def test_a_long_end_of_stderr_is_cut_at_its_front(run: Any) -> None:
    outcome = await run("seq 100000 >&2; exit 1")
    assert outcome.reason.startswith("exit code 1: …")
    assert outcome.reason.endswith("\n99999\n100000")
    assert 3000 < len(outcome.reason) < 4000


async def test_data_of_megabytes_goes_in_and_out(run: Any) -> None:
    data = json.dumps("x" * 3_000_000).encode()
    assert await run("cat", data, output_bytes=4_000_000) == Ok(data)


async def test_a_command_need_not_read_its_data(run: Any) -> None:
    assert await run("echo 1", json.dumps("x" * 3_000_000).encode()) == Ok(b"1")
    assert await run("exec <&-; echo 2", json.dumps("x" * 3_000_000).encode()) == Ok(b"2")


async def test_a_command_may_close_its_output_and_go_on(run: Any, tmp_path: Path) -> None:
    assert await run("echo 1; exec >&- 2>&-; sleep 0.2; echo done > said") == Ok(b"1")
    assert (tmp_path / "said").read_text() == "done\n"


async def test_too_much_output_is_a_final_failure_and_ends_the_command_at_once(run: Any) -> None:
    assert await run("trap '' TERM; yes") == Failed("its output has more than 1000 bytes (output_bytes)", final=True)
    assert await run("head -c 1000 /dev/zero | tr '\\0' x") == Ok(b'"' + b"x" * 1000 + b'"')
    assert await run("head -c 1001 /dev/zero | tr '\\0' x") == Failed(
        "its output has more than 1000 bytes (output_bytes)", final=True
    )


async def test_a_flood_of_errors_is_no_output(run: Any) -> None:
    assert await run("head -c 3000000 /dev/zero >&2; echo 1") == Ok(b"1")


@pytest.mark.parametrize("limits", [{}, {"cpu_s": 100}])
@pytest.mark.parametrize(
    "leave",
    [
        "{nap} &",
        "setsid {nap} &",
        "(setsid sh -c '{nap} & {nap}' &);",
        "trap '' TERM HUP; {nap} &",
        "setsid setsid nohup {nap} >out 2>&1 &",
    ],
)
async def test_what_a_command_leaves_is_killed(run: Any, leave: str, limits: dict[str, int]) -> None:
    left = nap()
    assert await run(f"{leave.format(nap=left)} echo 1", **limits) == Ok(b"1")
    assert alive(left) == []


async def test_a_daemon_whose_parents_have_all_gone_is_killed(run: Any, tmp_path: Path) -> None:
    left = nap()
    fork = "os.fork() and os._exit(0)"
    daemon = f"import os\n{fork}\nos.setsid()\n{fork}\nos.execvp('sleep', {left.split()})"
    assert await run(f'{sys.executable} -S -c "{daemon}"; sleep 0.2; echo 1') == Ok(b"1")
    assert alive(left) == []


async def test_processes_that_fork_away_from_their_killer_are_caught(run: Any) -> None:
    left = nap()
    chain = f"import os\nfor _ in range(100000):\n if os.fork(): os._exit(0)\n os.setsid()\nos.execvp('sleep', {left.split()})"
    assert await run(f'{sys.executable} -S -c "{chain}" & sleep 0.2; echo 1') == Ok(b"1")
    assert alive(left) == []


async def test_cancelled_it_is_asked_to_end_and_so_is_all_that_it_has_started(executor: Executor, tmp_path: Path) -> None:
    left = nap()
    inner = f"trap 'sleep 0.1; echo bye > said2; exit' TERM; echo > ready; {left} & wait"
    script = f"trap 'echo bye > said; exit' TERM; setsid sh -c \"{inner}\" & wait"
    await cancel(executor, tmp_path, script, "ready")
    assert (tmp_path / "said").read_text() == (tmp_path / "said2").read_text() == "bye\n"
    assert alive(left) == []


async def test_cancelled_it_is_killed_if_it_does_not_end(executor: Executor, tmp_path: Path) -> None:
    left = nap()
    took_s = await cancel(executor, tmp_path, f"trap '' TERM; (trap '' TERM; setsid {left}) & echo > ready; {left}", "ready")
    assert alive(left) == []
    assert 0.4 < took_s < 5
    assert await run_command(executor, handler_of(["echo", "1"], tmp_path)) == Ok(b"1")


async def cancel(executor: Executor, folder: Path, script: str, ready: str) -> float:
    """Cancel a command that has made the file `ready`; return how long its end took, in s."""
    handler = handler_of(["sh", "-c", script], folder)
    task = asyncio.ensure_future(run_command(executor, handler))
    await until((folder / ready).exists)
    began_at = asyncio.get_running_loop().time()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return asyncio.get_running_loop().time() - began_at


async def test_a_command_that_kills_its_minder_has_failed_and_leaves_nothing(run: Any) -> None:
    left = nap()
    assert await run(f"setsid {left} & kill -9 $PPID; {left}") == Failed("the process that watched over the command was killed")
    await until(lambda: alive(left) == [])
    assert await run("echo 1") == Ok(b"1")


async def test_a_command_that_stops_its_minder_is_killed_with_it(executor: Executor, tmp_path: Path) -> None:
    left = nap()
    await cancel(executor, tmp_path, f"setsid {left} & kill -STOP $PPID; echo > ready; {left}", "ready")
    await until(lambda: alive(left) == [])
    assert await run_command(executor, handler_of(["echo", "1"], tmp_path)) == Ok(b"1")


async def test_the_keeper_is_replaced_when_it_was_killed(run: Any) -> None:
    assert await run("echo 1") == Ok(b"1")
    (helper,) = helpers()
    with capture_logs() as lines:
        os.kill(helper, signal.SIGKILL)
        await until(lambda: lines != [])
    assert lines[0]["event"] == "the helper process of commands was killed; another is started when it is needed"
    outcomes = await asyncio.gather(*[run("echo 2") for _ in range(3)])
    assert outcomes == [Ok(b"2")] * 3


async def test_runs_share_minders_and_leave_no_descriptor(run: Any) -> None:
    await run("true")
    before = descriptor_count()
    for _ in range(20):
        await run("true")
    assert descriptor_count() == before
    (helper,) = helpers()
    assert len(list(descendants(helper))) == 1


async def test_minders_that_nobody_needs_end(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minders, "SPARE_S", 0.05)
    await asyncio.gather(*[run("sleep 0.2") for _ in range(3)])
    (helper,) = helpers()
    await until(lambda: not list(descendants(helper)))
    assert await run("echo 1") == Ok(b"1")


@pytest.mark.parametrize("limits", [{}, {"cpu_s": 100}])
async def test_a_command_sees_neither_descriptors_nor_settings_nor_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]
) -> None:
    script = "import json, os; print(json.dumps([dict(os.environ), sorted(os.listdir('/proc/self/fd')), os.getcwd()]))"
    monkeypatch.setenv("KQS_STORE__URI", "mongodb://user:secret@host")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("TZ", "Europe/Berlin")
    ear, mouth = os.pipe()
    os.set_inheritable(ear, True)
    another = Executor(1, StrictSupervisor())
    outcome = await run_command(another, handler_of([sys.executable, "-S", "-X", "utf8", "-c", script], tmp_path, **limits))
    assert isinstance(outcome, Ok)
    environ, numbers, folder = json.loads(outcome.result or b"")
    another.close()
    await another.wait_closed()
    os.close(ear)
    os.close(mouth)
    assert {name: environ.pop(name) for name in ("KQS_JOB_ID", "KQS_JOB_TYPE", "KQS_JOB_ATTEMPT")} == {
        "KQS_JOB_ID": "id-1",
        "KQS_JOB_TYPE": "resize",
        "KQS_JOB_ATTEMPT": "2",
    }
    assert environ.pop("TZ") == "Europe/Berlin"
    assert set(environ) <= {"PATH", "HOME", "LANG", "LC_ALL"}
    assert numbers == ["0", "1", "2", "3"]  # the last is the list's own
    assert folder == str(tmp_path)


@pytest.mark.parametrize("limits", [{}, {"cpu_s": 100}])
async def test_signals_are_as_a_program_expects_them(executor: Executor, tmp_path: Path, limits: dict[str, int]) -> None:
    ignored = "sum(signal.getsignal(number) == signal.SIG_IGN for number in signal.valid_signals())"
    script = f"import signal; print({ignored}, len(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
    outcome = await run_command(executor, handler_of([sys.executable, "-S", "-c", script], tmp_path, **limits))
    assert outcome == Ok(b'"2 0"')  # SIGPIPE and SIGXFSZ, which Python itself ignores


async def test_memory_is_limited(run: Any) -> None:
    outcome = await run(f'{sys.executable} -S -c "bytearray(300000000)"', memory_bytes=200_000_000)
    assert outcome.reason.endswith("MemoryError")
    assert not outcome.final


async def test_cpu_time_is_limited(run: Any) -> None:
    assert await run("while :; do :; done", cpu_s=1) == Failed("killed by SIGXCPU, after 1 s of CPU time (cpu_s)")


async def test_open_files_are_limited(run: Any) -> None:
    assert await run("ulimit -n; ulimit -Hn", open_files=20) == Ok(b'"20\\n20"')


async def test_a_limit_above_the_servers_own_is_the_servers(run: Any) -> None:
    assert (await run("ulimit -Hn >/dev/null; echo 1", open_files=2**30)) == Ok(b"1")


async def test_without_a_limit_open_files_are_as_usual(run: Any) -> None:
    assert await run("ulimit -n") == Ok(b"1024")
    assert await run("ulimit -n 1030 && ulimit -n") == Ok(b"1030")


@pytest.mark.parametrize("limits", [{}, {"cpu_s": 100}])
@pytest.mark.parametrize(
    ("program", "trouble"),
    [
        ("nowhere", "nowhere: no such file or directory"),
        ("./nowhere", "./nowhere: no such file or directory"),
        ("./plain", "./plain: permission denied"),
        ("./empty", "./empty: exec format error"),
        (".", ".: permission denied"),
    ],
)
async def test_a_command_that_cannot_be_started_is_a_failure_that_says_why(
    executor: Executor, tmp_path: Path, program: str, trouble: str, limits: dict[str, int]
) -> None:
    (tmp_path / "plain").touch()
    (tmp_path / "empty").write_text("x")
    (tmp_path / "empty").chmod(0o700)
    outcome = await run_command(executor, handler_of([program], tmp_path, **limits))
    assert outcome == Failed(f"the command cannot be started: {trouble}")


async def test_a_folder_that_is_gone_is_named(executor: Executor, tmp_path: Path) -> None:
    outcome = await run_command(executor, handler_of(["true"], tmp_path / "gone"))
    assert outcome == Failed(f"the command true cannot be started: folder {tmp_path}/gone: no such file or directory")


async def test_without_a_descriptor_to_spare_a_run_fails_and_the_next_goes_on(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("socket.socketpair", refuse)
        outcome = await run_command(executor, handler_of(["true"], tmp_path))
    assert outcome == Failed("no process can be had for the command: too many open files")
    assert await run_command(executor, handler_of(["true"], tmp_path)) == Ok()


async def test_without_a_process_to_be_had_a_run_fails_and_the_next_goes_on(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(tmp_path / "python"))
        outcome = await run_command(executor, handler_of(["true"], tmp_path))
    assert outcome == Failed("no process can be had for the command: no such file or directory")
    assert await run_command(executor, handler_of(["true"], tmp_path)) == Ok()


async def test_without_a_descriptor_for_the_keepers_end_a_run_fails_and_the_next_goes_on(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_pid: int) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pidfd_open", refuse)
        outcome = await run_command(executor, handler_of(["true"], tmp_path))
    assert outcome == Failed("no process can be had for the command: too many open files")
    assert helpers() == []
    assert await run_command(executor, handler_of(["true"], tmp_path)) == Ok()


async def test_a_stopped_executor_starts_no_command(executor: Executor, tmp_path: Path) -> None:
    executor.close()
    outcome = await run_command(executor, handler_of(["true"], tmp_path))
    assert outcome == Failed("no process can be had for the command: the server stops")


async def test_problems_name_a_program_that_is_not_in_path(executor: Executor, tmp_path: Path) -> None:
    command = handler_of(["kqs-no-such-program"], tmp_path).command
    assert command is not None
    executor.look_after({"resize": command})
    (problem,) = executor.problems()
    assert problem.startswith("the command of type 'resize' cannot be started: kqs-no-such-program: no such file in /")


async def test_problems_name_a_command_that_is_missing_until_it_is_there(executor: Executor, tmp_path: Path) -> None:
    program = tmp_path / "resize.sh"
    command = handler_of([str(program)], tmp_path).command
    assert command is not None
    with capture_logs() as lines:
        executor.look_after({"resize": command})
    assert [(line["event"], line["type"]) for line in lines] == [("a command cannot be started", "resize")]
    assert executor.problems() == [f"the command of type 'resize' cannot be started: {program}: no such file"]
    program.write_text("#!/bin/sh\necho 1\n")
    assert executor.problems() == [f"the command of type 'resize' cannot be started: {program}: it cannot be executed"]
    program.chmod(0o700)
    assert executor.problems() == []
    assert await run_command(executor, handler_of([str(program)], tmp_path)) == Ok(b"1")


async def test_many_at_a_time_are_served(executor: Executor, tmp_path: Path) -> None:
    handler = handler_of(["cat"], tmp_path)
    outcomes = await asyncio.gather(*[run_command(executor, handler, b"%d" % number) for number in range(60)])
    assert outcomes == [Ok(b"%d" % number) for number in range(60)]
