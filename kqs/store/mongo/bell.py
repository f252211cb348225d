"""Telling the other servers of a store to look again: what is said of types is read when the bell has rung."""

from __future__ import annotations

from contextlib import suppress

from kqs.store.mongo.client import DRIVER_ERRORS
from kqs.store.mongo.servers import Servers


async def ring(servers: Servers) -> None:
    """Ring for all of them. What fails rings later."""
    with suppress(*DRIVER_ERRORS):
        await servers.ring_all()
