"""The queue of a server, over the wire."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from kqs.client import Client, ConnectionLostError, parse_address
from kqs.handlers import HandlerError
from kqs.library.apart import Apart
from kqs.library.bulk import BulkStore
from kqs.library.queue import DEFAULT_CONCURRENCY, Queue
from kqs.library.running import Running, checked_concurrency
from kqs.log import get_logger
from kqs.supervisor import Supervisor

log = get_logger("kqs.library")

#: names the server, where none is given
ENV_SERVER = "KQS_SERVER"


class FarQueue(Queue):
    """See the module docstring. The connection comes back when it is lost; runs go with it."""

    def __init__(self, address: str, concurrency: int, bulk: BulkStore | None = None, **settings: Any) -> None:
        """Args: settings: as kqs.client.Client takes them. Raises: ValueError: the address is none, or the concurrency."""
        checked_concurrency(concurrency)
        self._client = Client(parse_address(address), **settings)
        self._client.call_itself("the queue")
        supervisor = Supervisor(self._failed)
        self._apart = Apart(bulk, supervisor, self.job)
        self._running = Running(self._client, supervisor, concurrency, self._apart)

    def _check_options(self, type_: str, options: Mapping[str, Any]) -> None:
        if said := next((name for name, value in options.items() if not callable(value)), None):
            raise HandlerError(
                f"handler {type_!r}: {said}: what a program says does not reach the server; say it in its [types.{type_}], "
                "by configure, or with the job"
            )

    def _heed(self, type_: str, options: dict[str, Any]) -> None:
        return

    async def open(self) -> None:
        """Connect, trying once. Raises: UnreachableError: nobody answers there."""
        await self._client.open()

    async def close(self) -> None:
        """See Queue.close."""
        if self._client.is_elsewhere:
            return
        try:
            await self._running.close()
            await self._apart.close()
        finally:
            await self._client.close()

    def _failed(self, name: str, error: BaseException) -> None:
        log.error("a part of the library has failed", part=name, exc_info=error)


def connect(
    address: str | None = None,
    *,
    concurrency: int = DEFAULT_CONCURRENCY,
    bulk: BulkStore | None = None,
    environ: Mapping[str, str] | None = None,
    **settings: Any,
) -> Queue:
    """Return the queue of a server, for `async with`.

    Args: address: `HOST:PORT` or `unix:PATH`; None: `$KQS_SERVER`, or this machine's. concurrency: jobs that `run_jobs` runs
        at a time. bulk: where long data goes; it is closed with the queue. settings: `timeout_s`: how long a call may take,
        in s; None: for ever.
    Raises: ValueError: the address is none, or the concurrency.
    """
    return FarQueue(
        address if address is not None else (os.environ if environ is None else environ).get(ENV_SERVER, ""),
        concurrency,
        bulk,
        **settings,
    )


__all__ = ["ConnectionLostError", "FarQueue", "connect"]
