"""A connection of the client, on a real socket."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from kqs.client.address import Address
from kqs.client.link import Link


async def test_what_is_said_as_the_connection_is_dropped_is_let_go() -> None:
    faults: list[dict[str, Any]] = []
    reasons: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server:
        link = await Link.open(Address("127.0.0.1", server.sockets[0].getsockname()[1]), lambda _: None, reasons.append)
        link.send(b'{"n":"ping"}\n')
        link.abort("it spoke nonsense")
        await link.lost
        link.send(b'{"n":"ping"}\n')
        await asyncio.sleep(0)
    assert reasons == ["it spoke nonsense"]
    assert faults == []


async def test_a_server_that_vanishes_is_noticed_in_two_minutes_also_while_it_is_sent_something() -> None:
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server:
        link = await Link.open(Address("127.0.0.1", server.sockets[0].getsockname()[1]), lambda _: None, lambda _: None)
        sock = link._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        probes_s = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) * sock.getsockopt(
            socket.IPPROTO_TCP, socket.TCP_KEEPINTVL
        )
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) + probes_s == 120
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 120_000
        await link.close()
