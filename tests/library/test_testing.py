"""The queue for tests: what can run is run, what time brings comes in its order, and what was inserted is told."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import kqs
import kqs.testing
from kqs.testing import TestQueue

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/testing.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
#: noon of a Monday
NOON = 1_799_668_800.0
HOUR_S = 3600.0


@pytest.fixture
async def queue() -> AsyncIterator[TestQueue]:
    async with kqs.testing.open(at=NOON) as queue:
        yield queue


def list_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


def shown(queue: TestQueue) -> int:
    """Return what its clock shows, in s after noon: to ten of them, since it goes on beside a machine that is busy."""
    return 10 * round((queue.now - NOON) / 10)


@dataclass
class Letter:
    to: str
    pages: int = 1


class Seen:
    """Notes which jobs run, and when, as `shown`."""

    def __init__(self, queue: TestQueue) -> None:
        self.runs: list[tuple[Any, int]] = []
        self._queue = queue

    async def note(self, data: Any) -> None:
        self.runs.append((data, shown(self._queue)))


@pytest.fixture
def seen(queue: TestQueue) -> Seen:
    seen = Seen(queue)
    queue.add_handler("mail", seen.note)
    return seen


async def test_jobs_run_until_none_can(queue: TestQueue, seen: Seen) -> None:
    async def passes_on(data: int) -> None:
        await queue.add_job("mail", data)

    queue.add_handler("first", passes_on)
    await queue.add_jobs([{"type": "first", "data": n} for n in range(3)])
    await queue.add_job("unknown")
    assert await queue.run_until_idle() == 6
    assert sorted(data for data, _ in seen.runs) == [0, 1, 2]
    assert await queue.run_until_idle() == 0


async def test_delays_end_in_their_order_each_at_its_instant(queue: TestQueue, seen: Seen) -> None:
    for delay in (HOUR_S, 60, 2 * HOUR_S):
        await queue.add_job("mail", delay, delay=delay)
    assert await queue.advance(40) == 0
    assert await queue.advance(HOUR_S) == 2
    assert seen.runs == [(60, 60), (HOUR_S, 3600)]
    assert await queue.advance(HOUR_S) == 1


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "long", None, True, 1e300])
async def test_what_no_clock_can_show_is_named_and_changes_nothing(queue: TestQueue, value: Any) -> None:
    with pytest.raises(ValueError, match="seconds: expected a number of seconds from 0 to 10000000000, got"):
        await queue.advance(value)
    if value is not None:
        with pytest.raises(ValueError, match="at: expected a number"):
            kqs.testing.open(at=value)
    assert await queue.advance(0) == 0


async def test_retries_come_after_their_back_off(queue: TestQueue) -> None:
    tried: list[int] = []

    async def fails(_data: Any) -> None:
        tried.append(shown(queue))
        raise OSError("away")

    queue.add_handler("mail", fails)
    job = await queue.add_job("mail", retries=3, retry_delay=100)
    assert await queue.advance(1000) == 4
    assert tried == [0, 100, 200, 300]
    assert (await job.wait(1)).state == "fail"


async def test_what_comes_while_others_run_runs_then_and_not_at_the_end(queue: TestQueue) -> None:
    tried: list[int] = []

    async def looks_again(_data: Any) -> None:
        tried.append(shown(queue))
        if len(tried) < 5:
            raise kqs.Again(delay=0.001)

    queue.add_handler("mail", looks_again)
    await queue.add_job("mail")
    assert await queue.advance(1000) == 5
    assert tried == [0] * 5


async def test_schedules_tick_at_their_instants(queue: TestQueue, seen: Seen) -> None:
    await queue.schedule("hourly", {"type": "mail", "data": "tick"}, cron="30 * * * *")
    assert await queue.advance(24 * HOUR_S) == 24
    assert seen.runs == [("tick", 1800 + n * 3600) for n in range(24)]


async def test_what_expires_fails_and_a_run_without_a_report_is_lost(queue: TestQueue, seen: Seen) -> None:
    late = await queue.add_job("nobody", expire=1000)
    lost = await queue.add_job("mail", "again", ttr=300)
    (run,) = await queue.reserve("mail")
    await queue.advance(280)
    await run.touch()
    await queue.advance(280)
    assert seen.runs == []
    assert await queue.advance(500) == 1
    assert seen.runs[0][1] == 580
    assert (await late.wait(1)).error == "expired"
    assert ((await lost.wait(1)).ghosts, (await lost.wait(1)).state) == (1, "success")


async def test_a_rate_holds_by_the_clock(queue: TestQueue, seen: Seen) -> None:
    await queue.limit("mail", rate=1, per_s=60)
    await queue.add_jobs([{"type": "mail", "data": n} for n in range(3)])
    await queue.advance(HOUR_S)
    assert [data for data, _ in seen.runs] == [0, 1, 2]
    gaps = [later - earlier for (_, earlier), (_, later) in zip(seen.runs, seen.runs[1:], strict=False)]
    assert gaps == [60, 60]


async def test_what_was_inserted_is_told_and_stays(queue: TestQueue, seen: Seen) -> None:
    await queue.add_job("mail", {"to": "ada"})
    await queue.add_job("other", 2)
    await queue.advance(365 * 24 * HOUR_S)
    (record,) = await queue.assert_inserted("mail", {"to": "ada"})
    assert record.state == "success"
    assert [one.type for one in await queue.inserted()] == ["mail", "other"]
    with pytest.raises(
        AssertionError, match=r"jobs of 'mail': expected data \[1\], got \[\{'to': 'ada'\}\]; there are jobs of other"
    ):
        await queue.assert_inserted("mail", 1)


async def test_what_was_inserted_is_compared_as_it_was_given(queue: TestQueue) -> None:
    await queue.add_job("letter", Letter("ada"))
    await queue.assert_inserted("letter", Letter("ada"))
    await queue.assert_inserted("letter", {"to": "ada", "pages": 1})
    with pytest.raises(AssertionError, match="expected data"):
        await queue.assert_inserted("letter", Letter("bob"))


async def test_its_folder_is_gone_afterwards() -> None:
    async with kqs.testing.open() as queue:
        assert list_of(queue._config.journal.dir) != []
    assert list_of(queue._config.journal.dir) == []


async def test_fifty_one_after_the_other_leave_neither_thread_nor_descriptor() -> None:
    before, left = set(threading.enumerate()), list[int]()
    for _ in range(50):
        async with kqs.testing.open() as queue:
            queue.add_handler("mail", lambda data: data)
            await queue.add_job("mail", 1, delay=HOUR_S)
            assert await queue.advance(HOUR_S) == 1
        left.append(len(list_of(Path("/proc/self/fd"))))
    assert left[-1] == left[0]
    for thread in set(threading.enumerate()) - before:
        thread.join(10)  # it was told to end
        assert not thread.is_alive(), thread.name


async def test_it_begins_no_thread() -> None:
    async def note(_data: Any) -> None:
        return None

    before = set(threading.enumerate())
    async with kqs.testing.open() as queue:
        queue.add_handler("mail", note)
        await queue.add_job("mail", {})
        assert await queue.run_until_idle() == 1
        assert set(threading.enumerate()) <= before


def test_the_first_example_runs_as_it_stands(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLES[0]], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "reminded ada\n", "")


def test_the_fixture_gives_a_queue(tmp_path: Path) -> None:
    sign_up = 'async def sign_up(queue, name):\n    for kind in ("hello", "tips"):\n'
    sign_up += '        await queue.add_job("letter", {"to": name, "kind": kind})\n\n\n'
    (tmp_path / "conftest.py").write_text(EXAMPLES[1])
    (tmp_path / "test_it.py").write_text(sign_up + EXAMPLES[2])
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "asyncio_mode=auto",
        "--rootdir",
        str(tmp_path),
    ]
    done = subprocess.run([*argv, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_what_the_page_names_is_there() -> None:
    named = set(re.findall(r"queue\.([a-z_]+)\(", PAGE))
    assert [name for name in sorted(named) if not hasattr(kqs.testing.TestQueue, name)] == []
    assert issubclass(kqs.testing.TestQueue, kqs.Queue)
