"""A conversation with no socket: bytes in, answers out, over a backend in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from kqs.config import ServerSection
from kqs.rpc.context import Context
from kqs.rpc.conversation import Conversation
from kqs.rpc.slices import Slices
from kqs.wire.steps import Steps, finish
from tests.support.backend import MemoryBackend
from tests.support.supervising import StrictSupervisor


class AtOnce(Slices):
    """Does in one go what takes long: there is no loop."""

    def run(self, work: Steps[None], size: int = 0) -> None:
        finish(work)


class PutOff(Slices):
    """Does nothing of what takes long."""

    def __init__(self) -> None:
        super().__init__(StrictSupervisor())
        self.waiting: list[Steps[None]] = []

    def run(self, work: Steps[None], size: int = 0) -> None:
        self.waiting.append(work)


class Conversing:
    """`hear` feeds bytes and returns what was answered at once; `settled` lets deferred calls finish, and returns theirs.

    `ask` is one call.
    """

    def __init__(self, max_line_bytes: int = 100_000, max_in_flight: int = 4096, desk: Any = None, trace: bool = False) -> None:
        self.backend = MemoryBackend()
        self.backend.desk = desk
        settings = ServerSection(max_in_flight=max_in_flight)
        self.context = Context(self.backend, StrictSupervisor(), self.backend.request_stop, settings, trace)
        self.context.slices = AtOnce(self.context.supervisor)
        #: whether each time that deferred calls were answered that was not to wait for the end of the tick
        self.in_haste: list[bool] = []
        self.conversation = Conversation(self.context, max_line_bytes, self.in_haste.append, str)
        self._said: list[bytes] = []

    def hear(self, *pieces: bytes) -> list[dict[str, Any]]:
        for piece in pieces:
            self.conversation.receive_data(piece)
            self.proceed()
        return self.answers()

    def proceed(self) -> None:
        while self.conversation.proceed():
            self._said.append(self.conversation.peer.data_to_send())

    def answers(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(line) for line in self.bytes_said().splitlines()]

    def bytes_said(self) -> bytes:
        said = b"".join([*self._said, self.conversation.peer.data_to_send()])
        self._said.clear()
        return said

    async def ask(self, name: str, argument: str = "null") -> Any:
        """Return what a call answers, or the error."""
        (answer,) = await self.settled(f'{{"id":1,"n":"{name}","m":{argument}}}\n'.encode())
        return answer["m"] if answer.get("e") is None else answer["e"]

    async def settled(self, *pieces: bytes) -> list[dict[str, Any]]:
        answers = self.hear(*pieces)
        while not self.conversation.is_idle:
            await asyncio.sleep(0)
            self.proceed()
            answers += self.answers()
        return answers


def put_off(talk: Conversing) -> list[Steps[None]]:
    """Have nothing done that takes long; return what it is."""
    talk.context.slices = slices = PutOff()
    return slices.waiting


def codes(answers: list[dict[str, Any]]) -> list[str]:
    """The error codes among qrpc answers, `ok` for the others."""
    return [answer["e"]["code"] if answer.get("e") else "ok" for answer in answers]
