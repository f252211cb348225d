"""A worker over a real connection to a real server over a queue, all in this process."""

from __future__ import annotations

from kqs.client import Address
from kqs.config import ServerSection
from kqs.outpost.line import Line
from kqs.outpost.source import WireSource
from kqs.remote import Desk
from kqs.server.server import Server
from tests.support.backend import MemoryBackend
from tests.support.queueing import Rig
from tests.support.turning import settled


class RemoteRig:
    """`source` is where its runs come from, once it was started. grace_s: how long the server waits for runs in its stop."""

    def __init__(self, rig: Rig, grace_s: float = 0.0) -> None:
        self._rig = rig
        self.backend = MemoryBackend()
        self.desk = self.backend.desk = Desk(rig.queue, grace_s, rig.supervisor)
        self.server = Server(ServerSection(host="127.0.0.1", port=0), self.backend, rig.supervisor, lambda: None, stop_s=5.0)
        self.line: Line
        self.source: WireSource

    async def start(self) -> None:
        await self.server.start()
        self.desk.start(self._rig.info.store_id)
        self.line = Line(Address(*self.server.addresses[0]), self._rig.supervisor)
        self.source = WireSource(self.line, self._rig.clock, self._rig.supervisor)
        self.line.start()

    async def settled(self) -> None:
        """Let both sides take in what the other has said so far, and say what comes of that."""
        await settled(self.line)

    async def stop_worker(self) -> None:
        """Report all, and hang up, as `kqs work` does."""
        await self.source.stop()
        await self.line.stop()

    async def stop(self) -> None:
        await self.stop_worker()
        await self.desk.stop()
        await self.server.stop()
