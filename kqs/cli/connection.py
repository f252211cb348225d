"""Commands that ask a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from kqs.client import Address, Client
from kqs.errors import KqsError

Result = TypeVar("Result")

#: most jobs, types or schedules that one call answers
PAGE = 1000

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def with_client(server: Address, work: Callable[[Client], Awaitable[Result]], **settings: Any) -> Result:
    """Connect, await `work` and return its result. settings: as Client takes them."""

    async def connected() -> Result:
        async with Client(server, **settings) as client:
            return await work(client)

    return asyncio.run(connected())


def call_with_progress(
    server: Address, name: str, arg: bytes, told: Callable[[msgspec.Raw], None], timeout_s: float
) -> msgspec.Raw:
    """Call `name` once and return its result as JSON; `told` is given its intermediate answers."""

    async def work(client: Client) -> msgspec.Raw:
        end: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()

        def ended(result: msgspec.Raw | KqsError) -> None:
            if end.done():
                return
            if isinstance(result, KqsError):
                end.set_exception(result)
            else:
                end.set_result(result)

        client.stand(name, arg, ended, told)
        return await asyncio.wait_for(end, timeout_s)

    return with_client(server, work)


def call(server: Address, name: str, arg: bytes = b"null", timeout_s: float | None = None) -> msgspec.Raw:
    """Call `name` once and return its result as JSON."""

    async def work(client: Client) -> msgspec.Raw:
        return await (await client.start(name, arg, timeout_s=timeout_s))

    return with_client(server, work)


async def listed(
    client: Client, call_name: str, query: dict[str, Any], key: str, most: int | None = None
) -> AsyncIterator[msgspec.Raw]:
    """Yield what a call lists, each as JSON, since data in it may hold what nothing here decodes, asking for a page at a time.

    Args: key: the field by which a page goes on after the last. most: of them; None: all.
    """
    while most is None or most > 0:
        limit = PAGE if most is None else min(most, PAGE)
        answer = await (await client.start(call_name, msgspec.json.encode({**query, "limit": limit})))
        page = msgspec.json.decode(answer, type=list[msgspec.Raw])
        for one in page:
            yield one
        if len(page) < limit:
            return
        most = None if most is None else most - limit
        query = {**query, "after": msgspec.json.decode(_decode_fields(page[-1])[key])}
