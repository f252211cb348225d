"""A connection to a node of this process, with no socket: what the client sends goes to a conversation, and answers come back.

Lines of one turn of the loop go over together, and so do answers. The conversation bounds what it has under way; what it does
not take yet waits here, and belongs to the same process, so nobody is turned away for it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from kqs.client import Address
from kqs.client.link import OpenLink
from kqs.rpc.context import Context
from kqs.rpc.conversation import Conversation
from kqs.rpc.lines import Lines
from kqs.wire.calling import Answer, AnswerReader


class Within:
    """See the module docstring. It is a link of the client (kqs.client.link.AnyLink). Call from the loop thread."""

    def __init__(self, context: Context, on_answer: Callable[[Answer], None], on_lost: Callable[[str], None]) -> None:
        """Args: context: of all conversations with the node. on_answer, on_lost: as the client's links are given."""
        self._context = context
        self._on_answer = on_answer
        self._on_lost = on_lost
        lines = Lines(sys.maxsize, sys.maxsize)
        longest = context.settings.max_line_bytes
        self._conversation = Conversation(context, longest, self._answered, lambda: "this process", lines)
        self._reader = AnswerReader()
        self._out: list[bytes] = []
        self._is_due = False
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send(self, line: bytes) -> None:
        """Have `line` run with the others of this turn."""
        self._out.append(line)
        self._note()

    async def close(self) -> None:
        """Give back what this connection has of the node's jobs. What was sent is done, and its answers are dropped."""
        self._advance()
        self.abort("it was closed")

    def abort(self, reason: str) -> None:
        """Drop the connection."""
        if not self.lost.done():
            self._conversation.forget()
            self.lost.set_result(None)
            self._on_lost(reason)

    def _answered(self, _at_once: bool) -> None:
        self._note()

    def _note(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._context.supervisor.call_soon("library", self._advance)

    def _advance(self) -> None:
        """Run what was sent, as far as the conversation takes it, and hand on what was answered."""
        self._is_due = False
        if self.lost.done():
            return
        conversation = self._conversation
        if self._out:
            lines, self._out = b"".join(self._out), []
            conversation.receive_data(lines)
        while conversation.proceed():
            self._hand_on()
        self._context.inserter.flush_if_alone()
        self._hand_on()

    def _hand_on(self) -> None:
        for answer in self._reader.receive_data(self._conversation.peer.data_to_send()):
            self._on_answer(answer)


def opener(context: Context) -> OpenLink:
    """Return what makes such connections, to the node of `context`, whatever the address."""

    async def link(_address: Address, on_answer: Callable[[Answer], None], on_lost: Callable[[str], None]) -> Within:
        return Within(context, on_answer, on_lost)

    return link
