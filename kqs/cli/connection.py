"""Commands that ask a server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from kqs.client import Address, Client

Result = TypeVar("Result")


def with_client(server: Address, work: Callable[[Client], Awaitable[Result]], **settings: Any) -> Result:
    """Connect, await `work` and return its result. settings: as Client takes them."""

    async def connected() -> Result:
        async with Client(server, **settings) as client:
            return await work(client)

    return asyncio.run(connected())


def call(server: Address, name: str, arg: bytes = b"null", timeout_s: float | None = None) -> msgspec.Raw:
    """Call `name` once and return its result as JSON."""

    async def work(client: Client) -> msgspec.Raw:
        return await (await client.start(name, arg, timeout_s=timeout_s))

    return with_client(server, work)
