"""A connection of the client, on a real socket."""

from __future__ import annotations

import asyncio
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
