"""What this server has of the limits that hold over all servers of a store: slots and tokens, asked for in batches.

It asks when a type is closed for want of them and jobs of it wait; it gives back what it has not used for a while, and what is
more than its share while others are short. So a job costs no round trip of its own, and an idle type none at all but the look.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from kqs.errors import StoreUnavailableError
from kqs.log import get_logger
from kqs.queue.admission import Admission
from kqs.queue.gate import Gate
from kqs.store.sharing import Share, Sharing
from kqs.trouble import Trouble

log = get_logger("kqs.queue")

#: how often is looked what others have, in s; what they give back is known after so long
LOOK_S = 0.5
#: how often tokens are asked for while some are wanted, at most, in s; of slow rates four times for each token
TOKENS_S = 0.02
#: slots that are asked for at once; twice as many as are in use, where that is more
STEP = 16


class Sharer:
    """See the module docstring. Call from the loop thread."""

    def __init__(self, sharing: Sharing, admission: Admission) -> None:
        self._sharing = sharing
        self._admission = admission
        self._limits = admission.limits
        self._wanting: set[str] = set()
        self._missed: set[str] = set()
        self._fair: dict[str, int] = {}  # how many slots we may have while others are short
        self._closed: set[str] = set()  # at some time since the last look
        self._wake = asyncio.Event()
        self._looked_at = 0.0

    def missed(self, type_: str) -> None:
        """Note that a new job might begin, but for its limits."""
        if type_ not in self._missed and self._admission.is_handled(type_):
            self._missed.add(type_)
            self._want(type_)

    def closed(self, type_: str, gate: Gate) -> None:
        """Note that what a type has is used up."""
        if gate.places:
            self._closed.add(type_)
            self._want(type_)

    def _want(self, type_: str) -> None:
        if type_ not in self._wanting:
            self._wanting.add(type_)
            self._wake.set()

    async def run(self) -> None:
        """Ask and give back, for ever."""
        trouble = Trouble(log, "cannot share limits, trying again", "shares limits again")
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            try:
                if loop.time() >= self._looked_at + LOOK_S:
                    await self._look()
                    self._looked_at = loop.time()
                await self._ask()
            except StoreUnavailableError as error:
                trouble.met(error=str(error))
                await asyncio.sleep(LOOK_S)
            else:
                trouble.over()
            await self._rest()

    async def _rest(self) -> None:
        gates = [gate for type_ in self._wanting if (gate := self._limits.gates.get(type_)) is not None]
        rates = [gate.bucket.per_second for gate in gates if gate.is_dry and gate.bucket is not None]
        wait_s = min(LOOK_S, max(TOKENS_S, 0.25 / max(rates))) if rates else LOOK_S
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._wake.wait()

    async def _ask(self) -> None:
        """Ask for what is wanted; what is not granted stays so as long as jobs wait."""
        missed, self._missed = self._missed, set()
        for type_ in list(self._wanting):
            gate = self._limits.gates.get(type_)
            if gate is None or not gate.is_closed or not (type_ in missed or self._admission.has_backlog(type_)):
                self._wanting.discard(type_)
                continue
            if gate.wants_slots:
                await self._ask_slots(type_, gate)
            if gate.is_dry and gate.bucket is not None:
                bucket = gate.bucket
                self._limits.bring(type_, await self._sharing.tokens(type_, bucket.per_second, bucket.burst))

    async def _ask_slots(self, type_: str, gate: Gate) -> None:
        most, running = gate.limit.max_running or 0, len(gate.places)
        may_have = min(most, self._fair.get(type_, most))
        wanted = max(running, min(may_have, max(running + STEP, 2 * running)))
        has = await self._sharing.slots(type_, wanted, most)
        self._limits.grant(type_, min(has, gate.limit.max_running or 0))

    async def _look(self) -> None:
        """Bring what we have in line with what we use, and with what others need."""
        closed, self._closed = self._closed, set()
        shared = [type_ for type_, gate in self._limits.gates.items() if gate.shared is not None]
        is_rated = any(gate.bucket is not None for gate in self._limits.gates.values())
        if not shared and not is_rated:
            return
        shares = await self._sharing.look()
        for type_, share in shares.items():
            if share.ours and type_ not in shared:
                await self._sharing.slots(type_, 0, 0)
        for type_ in shared:
            gate = self._limits.gates.get(type_)
            if gate is not None and gate.shared is not None:
                await self._even(type_, gate, shares.get(type_, Share(0, 0)), was_closed=type_ in closed)
                if self._admission.has_backlog(type_):
                    self._want(type_)
        for type_, gate in self._limits.gates.items():
            if gate.is_dry and self._admission.has_backlog(type_):
                self._want(type_)

    async def _even(self, type_: str, gate: Gate, share: Share, *, was_closed: bool) -> None:
        most, has = gate.limit.max_running or 0, min(gate.shared or 0, share.ours)
        keeps = has if was_closed else max(min(has, len(gate.places)), has // 2)
        self._fair.pop(type_, None)
        if share.short:
            self._fair[type_] = max(1, most // (share.short + 1))
            keeps = min(keeps, self._fair[type_])
        self._limits.grant(type_, keeps)
        running = len(gate.places)
        if share.ours != max(keeps, running) or (share.is_short and type_ not in self._wanting):
            await self._sharing.slots(type_, max(keeps, running), most, is_forced=running > keeps)
