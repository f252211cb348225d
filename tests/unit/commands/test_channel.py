from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator

import pytest

from kqs.commands import channel as channels
from kqs.commands.channel import Channel, MinderLostError
from kqs.minding.command import Command
from kqs.minding.frames import (
    Ended,
    FrameReader,
    Kind,
    Order,
    Unstarted,
    decode_order,
    encode_report,
    encoded,
)
from tests.support.supervising import StrictSupervisor

ORDER = Order(Command(["true"], "/"), {}, b"null")
REPORT = Ended(0, False, False, b"1", b"")


class Minder:
    """The other end, played by the test."""

    def __init__(self, theirs: socket.socket) -> None:
        theirs.setblocking(False)
        self.socket = theirs
        self._reader = FrameReader()
        self._frames: list[tuple[int, bytes]] = []

    def say(self, frame: bytes) -> None:
        self.socket.send(frame)

    async def hear(self) -> tuple[int, bytes]:
        async with asyncio.timeout(10):
            while not self._frames:
                self._frames += self._reader.receive_data(await asyncio.get_running_loop().sock_recv(self.socket, 65536))
        return self._frames.pop(0)


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Channel, Minder]]:
    ours, theirs = socket.socketpair()
    channel = Channel(ours, StrictSupervisor())
    yield channel, Minder(theirs)
    channel.close()
    theirs.close()


@pytest.fixture
async def met(ends: tuple[Channel, Minder]) -> tuple[Channel, Minder]:
    channel, minder = ends
    minder.say(encoded(Kind.READY, b"17"))
    await channel.meet()
    return ends


async def test_a_minder_that_was_there_before_anybody_waited_is_met(ends: tuple[Channel, Minder]) -> None:
    channel, minder = ends
    minder.say(encoded(Kind.READY, b"17"))
    channel._receive()
    await channel.meet()
    assert (channel.pid, channel.is_free) == (17, True)


async def test_a_minder_that_could_not_be_forked_is_an_error_that_says_why(ends: tuple[Channel, Minder]) -> None:
    channel, minder = ends
    minder.say(encode_report(Unstarted(errno.EAGAIN, "minder")))
    with pytest.raises(OSError, match=os.strerror(errno.EAGAIN)):
        await channel.meet()
    assert minder.socket.recv(1) == b""


async def test_a_minder_that_never_comes_is_an_error(ends: tuple[Channel, Minder]) -> None:
    channel, minder = ends
    minder.socket.close()
    with pytest.raises(MinderLostError):
        await channel.meet()


async def test_an_order_goes_out_and_its_report_comes_back(met: tuple[Channel, Minder]) -> None:
    channel, minder = met
    run = asyncio.ensure_future(channel.run(ORDER))
    kind, body = await minder.hear()
    assert (kind, decode_order(body), channel.is_free) == (Kind.ORDER, ORDER, False)
    minder.say(encode_report(REPORT))
    assert await run == REPORT
    assert channel.is_free


async def test_a_minder_that_is_lost_ends_the_run_and_takes_no_other(met: tuple[Channel, Minder]) -> None:
    channel, minder = met
    run = asyncio.ensure_future(channel.run(ORDER))
    await minder.hear()
    minder.socket.close()
    with pytest.raises(MinderLostError):
        await run
    with pytest.raises(MinderLostError):
        await channel.run(ORDER)
    assert not channel.is_free


async def test_a_cancelled_run_is_over_when_the_minder_says_so(met: tuple[Channel, Minder]) -> None:
    channel, minder = met
    run = asyncio.ensure_future(channel.run(ORDER))
    await minder.hear()
    run.cancel()
    assert await minder.hear() == (Kind.END, b"")
    assert not run.done()
    minder.say(encode_report(REPORT))
    with pytest.raises(asyncio.CancelledError):
        await run
    assert (channel.is_free, channel.is_stuck) == (True, False)


async def test_a_report_that_meets_the_cancellation_is_the_end(met: tuple[Channel, Minder]) -> None:
    channel, minder = met
    run = asyncio.ensure_future(channel.run(ORDER))
    await minder.hear()
    minder.say(encode_report(REPORT))
    run.cancel()
    channel._receive()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert (channel.is_free, channel.is_stuck) == (True, False)


async def test_a_minder_that_does_not_end_its_run_in_time_is_stuck(
    met: tuple[Channel, Minder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "END_WITHIN_S", 0.05)
    channel, minder = met
    run = asyncio.ensure_future(channel.run(ORDER))
    await minder.hear()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert (channel.is_free, channel.is_stuck) == (False, True)


async def test_a_long_order_is_sent_as_the_minder_takes_it_and_its_end_comes_behind(met: tuple[Channel, Minder]) -> None:
    channel, minder = met
    order = ORDER._replace(data=b"x" * 2_000_000)
    run = asyncio.ensure_future(channel.run(order))
    await asyncio.sleep(0)
    run.cancel()
    kind, body = await minder.hear()
    assert (kind, decode_order(body)) == (Kind.ORDER, order)
    assert await minder.hear() == (Kind.END, b"")
    minder.socket.close()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert (channel.is_free, channel.is_stuck) == (False, False)


async def test_a_channel_that_cannot_be_read_is_lost(met: tuple[Channel, Minder], monkeypatch: pytest.MonkeyPatch) -> None:
    channel, minder = met
    run = asyncio.ensure_future(channel.run(ORDER))
    await minder.hear()
    channel._receive()  # woken for nothing
    assert not run.done()
    with open(os.devnull) as nothing:  # noqa: ASYNC230, PTH123 - which waits for nothing
        os.dup2(nothing.fileno(), channel._number)
    channel._receive()
    with pytest.raises(MinderLostError):
        await run
