from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import struct
import termios
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kqs.children import child as children
from kqs.children.child import DOUBTED_LOOKS, GONE_LOOKS, LOST_LOOKS, SILENT_LOOKS, Child, End
from kqs.children.words import Beat, Born, Leaving, Ready, Unfit, Word, told
from kqs.commands.channel import MinderLostError
from kqs.minding.frames import Ended, Order, Unstarted
from tests.support.supervising import StrictSupervisor
from tests.support.turning import until


class FakeHand:
    def __init__(self) -> None:
        self.overdue_count = self.lost_count = self.runs_count = 0
        self.is_gone = False
        self.is_paused = False

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False


class FakePeer:
    def __init__(self) -> None:
        self.hand = FakeHand()
        self.is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True


class FakeChannel:
    """A minder whose child ends as the test says."""

    def __init__(self, passed: list[int]) -> None:
        self.status = os.dup(passed[-1])
        self.wire = socket.socket(fileno=os.dup(passed[2]))
        self.orders: list[Order] = []
        self.over: asyncio.Future[Ended | Unstarted] = asyncio.get_running_loop().create_future()
        self.ends = 0
        self.is_closed = False

    async def run(self, order: Order) -> Ended | Unstarted:
        self.orders.append(order)
        return await self.over

    def end(self) -> None:
        self.ends += 1

    def close(self) -> None:
        self.is_closed = True

    def say(self, *words: Word) -> None:
        os.write(self.status, b"".join(map(told, words)))

    def is_heard(self) -> bool:
        """Tell whether nothing of what was said is in the pipe any more."""
        (unread,) = struct.unpack("i", fcntl.ioctl(self.status, termios.FIONREAD, bytes(4)))
        return not unread


class Rig:
    def __init__(self) -> None:
        self.peer = FakePeer()
        self.channels: list[FakeChannel] = []
        self.fault: OSError | None = None
        self.supervisor = StrictSupervisor()
        minders: Any = self
        self.child = Child(7, b"{}", "/srv", minders, self._door, self.supervisor)
        self.is_served = asyncio.Event()
        self.run: asyncio.Task[End]

    async def make(self, passed: list[int]) -> Any:
        if self.fault is not None:
            raise self.fault
        self.channels.append(FakeChannel(passed))
        return self.channels[-1]

    async def _door(self, ours: socket.socket) -> Any:
        self.is_served.set()
        return self.peer

    async def start(self) -> FakeChannel:
        self.run = asyncio.create_task(self.child.run())
        async with asyncio.timeout(5):
            await self.is_served.wait()
        await until(lambda: self.channels[0].orders)
        return self.channels[0]

    async def end(self, report: Ended | Unstarted | Exception) -> End:
        over = self.channels[0].over
        if isinstance(report, Exception):
            over.set_exception(report)
        else:
            over.set_result(report)
        async with asyncio.timeout(5):
            return await self.run


def ended(code: int) -> Ended:
    return Ended(code, False, False, b"", b"")


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    for channel in rig.channels:
        os.close(channel.status)
        channel.wire.close()


async def said(rig: Rig, *words: Word) -> None:
    """Have it say something, and wait until that was heard."""
    rig.channels[0].say(*words)
    await until(rig.channels[0].is_heard)


@pytest.mark.parametrize(
    ("report", "end"),
    [
        (ended(0), End("exit code 0", 0, True)),
        (ended(3), End("exit code 3", 0, False)),
        (ended(-signal.SIGSEGV), End("killed by SIGSEGV", 0, False)),
        (ended(-100), End("killed by signal 100", 0, False)),
        (Unstarted(2, "python"), End("it cannot be started: python: no such file or directory", 0, False)),
        (MinderLostError("it has ended"), End("the process that watched over it was killed", 0, False)),
    ],
)
async def test_how_it_ended_is_told_in_words(rig: Rig, report: Ended | Unstarted | Exception, end: End) -> None:
    channel = await rig.start()
    assert await rig.end(report) == end
    assert rig.peer.is_aborted
    assert channel.is_closed


async def test_without_a_descriptor_or_process_it_ends_with_the_reason(rig: Rig) -> None:
    rig.fault = OSError(24, "Too many open files")
    assert await rig.child.run() == End("no process can be had for it: too many open files", 0, False)


async def test_its_environment_has_nothing_that_systemd_says_to_the_server(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "@systemd")
    monkeypatch.setenv("SHOP", "open")
    (order,) = (await rig.start()).orders
    assert "NOTIFY_SOCKET" not in order.environ
    assert order.environ["SHOP"] == "open"
    assert (order.command.folder, order.data) == ("/srv", b"{}")
    await rig.end(ended(0))


async def test_what_it_says_is_taken_in_also_with_its_last_breath(rig: Rig) -> None:
    channel = await rig.start()
    await said(rig, Born(os.getpid()), Ready(), Beat(["all threads are held"]))
    assert (rig.child.pid, rig.child.is_ready, rig.child.problems()) == (os.getpid(), True, ["all threads are held"])
    os.write(channel.status, b"a handler's own\n")
    channel.say(Ready(), Born(1), Leaving("max_jobs"), Leaving("else"), Unfit("no module"))
    assert await rig.end(ended(78)) == End("no module", 0, False)
    assert (rig.child.pid, rig.child.leaving.result()) == (os.getpid(), "max_jobs")


async def test_endless_words_are_not_kept(rig: Rig) -> None:
    channel = await rig.start()
    for _ in range(40):
        os.write(channel.status, b"x" * 4096)
        await until(channel.is_heard)
    os.write(channel.status, b"\n")
    await said(rig, Ready())
    assert rig.child.is_ready
    assert await rig.end(ended(0)) == End("exit code 0", 0, True)


@pytest.mark.parametrize("has_left", [True, False])
async def test_its_runs_are_counted_whether_its_connection_was_lost_before_or_not(rig: Rig, has_left: bool) -> None:
    await rig.start()
    setattr(rig.peer.hand, "lost_count" if has_left else "runs_count", 3)
    assert (await rig.end(ended(-9))).runs_count == 3


async def test_silent_it_is_given_no_more_until_it_is_heard_of(rig: Rig) -> None:
    await rig.start()
    await said(rig, Born(os.getpid()), Ready())
    for _ in range(DOUBTED_LOOKS):
        assert not rig.peer.hand.is_paused
        rig.child.look()
    assert rig.peer.hand.is_paused
    await said(rig, Beat([]))
    assert not rig.peer.hand.is_paused
    await rig.end(ended(0))


async def test_silent_while_a_run_is_over_its_time_it_is_killed(rig: Rig) -> None:
    channel = await rig.start()
    rig.peer.hand.overdue_count, rig.peer.hand.runs_count = 1, 1  # which was long before
    await said(rig, Born(os.getpid()), Ready())
    for _ in range(SILENT_LOOKS + 1):
        rig.child.look()
    assert channel.ends == 0
    assert rig.child.problems() == [f"a handler holds its event loop, nothing was heard of it for {SILENT_LOOKS + 1} s"]
    rig.peer.hand.overdue_count = 2
    rig.child.look()
    rig.child.look()
    assert channel.ends == 2
    assert (await rig.end(ended(-9))).how == "a handler held its event loop beyond the time of a run, so it was killed"


async def test_silent_without_a_run_it_is_killed_at_last_unless_it_only_starts(rig: Rig) -> None:
    channel = await rig.start()
    for _ in range(LOST_LOOKS + 1):
        rig.child.look()
    assert channel.ends == 0
    await said(rig, Born(os.getpid()), Ready())
    for _ in range(LOST_LOOKS):
        rig.child.look()
    assert channel.ends == 2
    assert "after all its runs were over" in (await rig.end(ended(-9))).how


async def test_without_a_connection_it_is_killed_unless_it_ends_by_itself_soon(rig: Rig) -> None:
    channel = await rig.start()
    await said(rig, Born(os.getpid()), Ready())
    rig.peer.hand.is_gone = True
    for _ in range(GONE_LOOKS - 1):
        rig.child.look()
        await said(rig, Beat([]))
    assert channel.ends == 0
    rig.child.look()
    assert channel.ends == 2
    await said(rig, Leaving("it was asked to end"))
    assert not rig.child.leaving.done()  # who is killed is no leaver, but has died
    assert (await rig.end(ended(-9))).how == "a handler closed its connection, so it was killed"


async def test_asked_to_end_before_there_is_a_process_none_is_started(rig: Rig) -> None:
    assert rig.child.is_unborn
    rig.child.end()
    run = asyncio.create_task(rig.child.run())
    async with asyncio.timeout(5):
        assert (await run).is_sound
    assert rig.channels[0].orders == []


async def test_given_up_its_channel_is_cut(rig: Rig) -> None:
    rig.child.give_up()
    channel = await rig.start()
    rig.child.give_up()
    assert channel.is_closed
    await rig.end(MinderLostError("it was killed"))


async def test_one_whose_minder_is_gone_is_killed_by_its_number(rig: Rig) -> None:
    orphan = await asyncio.create_subprocess_exec("sleep", "600")
    await rig.start()
    await said(rig, Born(orphan.pid))
    await rig.end(MinderLostError("it has ended"))
    async with asyncio.timeout(5):
        assert await orphan.wait() == -signal.SIGKILL


async def test_no_descriptor_is_left(rig: Rig) -> None:
    def held() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = held()
    await rig.start()
    await said(rig, Born(os.getpid()))
    await rig.end(ended(0))
    assert held() == before + 2  # the test's own
    assert children._environ({"LISTEN_FDS": "1"}) == {}
