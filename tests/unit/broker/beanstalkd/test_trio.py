from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from kqs.broker.beanstalkd.link import Link, LinkLostError
from kqs.broker.beanstalkd.trio import Trio
from tests.support.supervising import StrictSupervisor

STATS = b"---\nid: abc\ndraining: true\n"


class Peer(asyncio.Protocol):
    """A server that answers every stats; `serving` are its connections."""

    def __init__(self, serving: list[asyncio.Transport]) -> None:
        self._serving = serving

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._serving.append(self._transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(b"OK %d\r\n%b\r\n" % (len(STATS), STATS))


class Rig:
    """A peer, and a trio that is to be opened to it."""

    def __init__(self, address: str, serving: list[asyncio.Transport]) -> None:
        self.told: list[str] = []
        self.serving = serving
        self.trio = Trio(address, self.told.append, StrictSupervisor())


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    serving: list[asyncio.Transport] = []
    server = await asyncio.get_running_loop().create_server(lambda: Peer(serving), "127.0.0.1", 0)
    rig = Rig(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", serving)
    yield rig
    rig.trio.end("over")
    server.close()


async def test_it_opens_three_connections_to_one_life(rig: Rig) -> None:
    stats = await rig.trio.open()
    assert (stats.instance, stats.is_draining, rig.trio.instance) == ("abc", True, "abc")
    assert [link.is_open for link in rig.trio.links] == [True] * 3
    assert {link.instance for link in rig.trio.links} == {"abc"}


@pytest.mark.parametrize("place", range(3))
async def test_with_one_of_them_all_are_lost_and_it_is_told_once(rig: Rig, place: int) -> None:
    await rig.trio.open()
    rig.serving[place].abort()
    reason = await rig.trio.lost
    assert rig.told == [reason]
    assert not any(link.is_open for link in rig.trio.links)
    rig.trio.end("again")
    assert rig.told == [reason]


async def test_when_it_is_ended_all_are_lost(rig: Rig) -> None:
    await rig.trio.open()
    rig.trio.end("enough")
    assert rig.told == ["enough"]
    assert not any(link.is_open for link in rig.trio.links)


async def test_one_that_is_lost_while_the_next_is_opened_leaves_none_open(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = Link.open

    async def lose_the_first(*args: Any) -> Link:
        link = await connect(*args)
        if rig.trio.links:
            rig.trio.links[0].abort("reset")
        return link

    monkeypatch.setattr(Link, "open", lose_the_first)
    with pytest.raises(LinkLostError, match="reset"):
        await rig.trio.open()
    assert rig.told == ["reset"]
    assert not any(link.is_open for link in rig.trio.links)
