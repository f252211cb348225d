"""What a worker does that is tried by `kqs conformance worker`."""

from __future__ import annotations

import asyncio
from typing import Any

import kqs


@kqs.handler("echo")
async def echo(data: Any) -> Any:
    return data


@kqs.handler("sleep", auto_touch=True)
async def sleep(data: Any) -> None:
    await asyncio.sleep(data["s"])


@kqs.handler("fail")
async def fail(data: Any) -> None:
    raise kqs.Fail(data["reason"], final=False)
