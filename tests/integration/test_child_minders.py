"""A minder that has a child process in place of commands: what that is given, how it is asked to end, and how it is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kqs.commands.channel import Channel, MinderLostError
from kqs.commands.minders import Minders
from kqs.minding.command import Command
from kqs.minding.frames import Ended, Order, Unstarted
from tests.support.commands import alive, nap
from tests.support.helper_processes import (  # noqa: F401 - fixtures of every test here
    WITHIN_S,
    helper_processes_are_measured,
    helpers,
    servers_of_other_tests_are_not_ours,
    until,
)
from tests.support.supervising import StrictSupervisor


class Raised:
    """A child process that is a shell, and its descriptors from 1 on: `out`, `err`, `wire` and `status`."""

    def __init__(self, channel: Channel, ours: dict[str, socket.socket], folder: Path) -> None:
        self.channel = channel
        self.ours = ours
        self.folder = folder

    def run(self, script: str, data: bytes = b"") -> asyncio.Task[Ended | Unstarted]:
        environ = {"PATH": os.environ["PATH"], "GIVEN": "\udcff"}
        order = Order(Command(["sh", "-c", script], str(self.folder), output_bytes=0), environ, data)
        return asyncio.create_task(self.channel.run(order))

    async def read(self, name: str) -> bytes:
        """Return what it says there next; b"" when it has closed that."""
        self.ours[name].setblocking(False)
        async with asyncio.timeout(WITHIN_S):
            return await asyncio.get_running_loop().sock_recv(self.ours[name], 100_000)


@pytest.fixture
async def raised(tmp_path: Path) -> AsyncIterator[Raised]:
    minders = Minders(StrictSupervisor(), "child processes")
    pairs = {name: socket.socketpair() for name in ("out", "err", "wire", "status")}
    channel = await minders.make([theirs.fileno() for _, theirs in pairs.values()])
    for _, theirs in pairs.values():
        theirs.close()
    yield Raised(channel, {name: ours for name, (ours, _) in pairs.items()}, tmp_path)
    channel.close()
    minders.close()
    await minders.wait_closed()
    await until(lambda: helpers() == [])
    for ours, _ in pairs.values():
        ours.close()


async def over(run: asyncio.Task[Ended | Unstarted]) -> Ended | Unstarted:
    async with asyncio.timeout(WITHIN_S):
        return await run


async def test_it_is_given_its_data_and_four_descriptors_and_no_more(raised: Raised) -> None:
    data = b"x" * 300_000
    run = raised.run("wc -c >&4; echo said; echo failed >&2; echo called >&3; ls /proc/self/fd | wc -l >&4; exit 3", data)
    assert await over(run) == Ended(3, False, False, b"", b"")
    assert [await raised.read(name) for name in ("out", "err", "wire")] == [b"said\n", b"failed\n", b"called\n"]
    assert (await raised.read("status")).split() == [b"300000", b"6"]  # 0 to 4, and what `ls` reads
    assert await raised.read("wire") == b""


async def test_asked_to_end_it_drains_and_nobody_else_is_signalled(raised: Raised) -> None:
    left = nap()
    run = raised.run(f"trap 'echo asked >&4; wait; exit 0' TERM; {left} & echo >&4; wait; wait")
    await raised.read("status")
    raised.channel.end()
    assert await raised.read("status") == b"asked\n"
    await until(lambda: alive(left) == [left])  # its shell may have forked and be about to be it
    assert not run.done()
    raised.channel.end()
    assert await over(run) == Ended(-signal.SIGKILL, False, False, b"", b"")
    assert alive(left) == []


async def test_asked_twice_at_once_it_is_killed(raised: Raised) -> None:
    run = raised.run("trap '' TERM; echo >&4; while :; do sleep 1; done")
    await raised.read("status")
    raised.channel.end()
    raised.channel.end()
    assert await over(run) == Ended(-signal.SIGKILL, False, False, b"", b"")


async def test_what_it_leaves_ends_with_it(raised: Raised) -> None:
    left = nap()
    assert await over(raised.run(f"setsid {left} & exit 0")) == Ended(0, False, False, b"", b"")
    assert alive(left) == []


async def test_it_is_killed_when_its_channel_is_cut(raised: Raised) -> None:
    left = nap()
    run = raised.run(f"trap '' TERM; {left} & echo >&4; wait")
    await raised.read("status")
    raised.channel.close()
    with pytest.raises(MinderLostError):
        await over(run)
    await until(lambda: alive(left) == [])
    assert await raised.read("wire") == b""


async def test_one_that_cannot_be_started_is_told_of(raised: Raised) -> None:
    raised.folder = raised.folder / "nowhere"
    report = await over(raised.run("true"))
    assert isinstance(report, Unstarted)
    assert "nowhere" in report.step
