"""Asking other servers to store what they have accepted: a number in their documents, and as high a one from them.

    asked      grows with every question
    answered   the number up to which all was stored that had been accepted before the questions; written with `last_order`

Who is asked looks at its own document anyhow. Whoever has the same question meanwhile waits for the same answer.
"""

from __future__ import annotations

import asyncio

from kqs.errors import StoreUnavailableError
from kqs.store.mongo.client import Document
from kqs.store.mongo.collections import Collections
from kqs.store.mongo.servers import Servers
from kqs.supervisor import Supervisor, with_its_answer

#: how long others may take, in s: as long as a server waits for itself
WITHIN_S = 5.0
#: between two looks for an answer, in s
_LOOK_S = 0.04
_LOOKED_AT = ["is_open", "asked", "answered", "node", "last_order"]
_Answer = Document | None
_SILENT = "another server has not told that it has stored what it accepted"


class Questions:
    """See the module docstring. For one server."""

    def __init__(self, collections: Collections, servers: Servers, supervisor: Supervisor) -> None:
        self._collection = collections.servers
        self._servers = servers
        self._supervisor = supervisor
        self._turns: dict[str, asyncio.Lock] = {}  # by journal, as the next
        self._unasked: dict[str, asyncio.Task[_Answer]] = {}
        self._open: set[asyncio.Task[_Answer]] = set()

    async def others_caught_up(self, node: str | None) -> dict[str, int]:
        """See Store.others_caught_up."""
        others = await self._servers.others(node)
        reached: dict[str, int] = {}
        try:
            async with asyncio.timeout(WITHIN_S):
                for question in [self._question(journal_id) for journal_id in others]:
                    if (answer := await asyncio.shield(question)) is not None:
                        reached[answer["node"]] = answer["last_order"]
        except TimeoutError:
            raise StoreUnavailableError(_SILENT) from None
        return reached

    def _question(self, journal_id: str) -> asyncio.Task[_Answer]:
        if (question := self._unasked.get(journal_id)) is None:
            question = self._supervisor.spawn(self._ask(journal_id), "store question", with_its_answer)
            self._open.add(question)
            question.add_done_callback(self._note_end)
            self._unasked[journal_id] = question
        return question

    async def _ask(self, journal_id: str) -> _Answer:
        """Ask when the question before has been answered; return when this one is. None: there is no such server any more."""
        async with self._turns.setdefault(journal_id, asyncio.Lock()):
            del self._unasked[journal_id]
            await self._collection.update_one({"_id": journal_id}, {"$inc": {"asked": 1}})
            number = 0
            for _ in range(round(WITHIN_S / _LOOK_S)):
                server = await self._collection.find_one({"_id": journal_id}, _LOOKED_AT)
                if server is None or not server["is_open"]:
                    return None
                number = number or server["asked"]
                if server.get("answered", 0) >= number:
                    return server
                await asyncio.sleep(_LOOK_S)
            raise StoreUnavailableError(_SILENT)

    def _note_end(self, question: asyncio.Task[_Answer]) -> None:
        self._open.discard(question)
        if not question.cancelled():
            question.exception()  # or asyncio would log it where all who asked have gone

    async def close(self) -> None:
        """Ask no more."""
        await self._supervisor.end(*self._open)
