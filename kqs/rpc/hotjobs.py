"""Calls that are answered when a job has ended: an insert with `wait`, and `job` with it.

Such a call is answered once, whatever happens: the end comes, its time is over, the server stops, or the peer is gone. It is
not in flight meanwhile, so it does not keep the peer from being read. Source: docs/protocol.md, "Waiting for the end".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from kqs.errors import ERROR_CODES, CallError
from kqs.options import Job, JobFields
from kqs.queue.ends import DELETED, End
from kqs.rpc.answers import LITTLE_BYTES
from kqs.rpc.context import MAX_WAITS_IN_ALL, Context
from kqs.rpc.peer import Peer, translate
from kqs.rpc.standing import MAX_WAITS
from kqs.states import ENDED, State
from kqs.wire.call import NULL, Call
from kqs.wire.jobs import are_waiting

_encode = msgspec.json.Encoder().encode
_ENDED = frozenset(state.word for state in ENDED)


class EndView(msgspec.Struct, gc=False):
    """How a job has ended, as its insert is told."""

    id: str
    state: str
    result: Raw


def wait_s(context: Context, job: Job) -> float:
    """Return how long the insert of this job waits for its end, in s; 0.0: it does not."""
    own = job.wait if isinstance(job, JobFields) else None
    if own is not None:
        return own
    return context.backend.default_wait_s(job.type) if context.backend.has_waits else 0.0


def may_any_wait(context: Context, jobs: Sequence[Job]) -> bool:
    """Tell whether the insert of one of some jobs, which are all plain or none is, may wait for its end."""
    if are_waiting(jobs):
        return True
    backend = context.backend
    return backend.has_waits and any(backend.default_wait_s(type_) for type_ in {job.type for job in jobs})


def check_room(peer: Peer) -> None:
    """Raises: CallError: busy; no more calls may wait."""
    if not peer.standing.may_wait:
        raise CallError(f"at most {MAX_WAITS} calls of a connection may wait for jobs to end", "busy")
    if peer.context.waits >= MAX_WAITS_IN_ALL:
        raise CallError(f"at most {MAX_WAITS_IN_ALL} calls may wait for jobs to end, try again later", "busy")


class Hotjob:
    """One call that waits for a job to end, which it is told after `begin`."""

    def __init__(
        self,
        peer: Peer,
        call: Call,
        job_id: str,
        answer: Callable[[End], None] | None = None,
        settle: Callable[[], None] | None = None,
    ) -> None:
        """Listen from now on.

        Args: call: detached. answer: gives the end, in the place of what an insert is answered. settle: leads to `begin`, if
            the end is told before: None: whoever made this comes to it by itself.
        """
        self._peer = peer
        self._call = call
        self._job_id = job_id
        self._answer = answer or self._answer_insert
        self._settle = settle
        self._told = self._tell  # bound once, so that it is found again
        self._timer: asyncio.TimerHandle | None = None
        self._has_begun = False
        self._end: End | None = None  # told before the call was begun, as is the next
        self._refusal: tuple[str, str] | None = None
        self._is_pouring = False  # the end is told when its turn comes
        self._is_over = False
        peer.context.waits += 1
        peer.standing.add_wait(call, self)
        peer.context.backend.wait(job_id, self._told)

    def begin(self, wait_s: float) -> None:
        """Answer the call when the job has ended, or after `wait_s`."""
        self._has_begun = True
        self._settle = None  # it has the job's record, whose data is not kept for so long
        if self._end is not None:
            self._tell(self._end, False)
        elif self._refusal is not None:
            self.refuse(*self._refusal)
        elif not self._is_over:
            self._timer = self._peer.context.supervisor.call_later(wait_s, "hotjob", self._give_up)

    def follow(self, job_id: str) -> None:
        """Listen for the end of this job, before `begin`: the one that was listened for may have been joined to it."""
        if self._is_over or job_id == self._job_id:
            return
        backend = self._peer.context.backend
        backend.forget(self._job_id, self._told)
        self._job_id, self._end = job_id, None
        backend.wait(job_id, self._told)
        backend.search([job_id])  # it may have ended before

    def saw(self) -> None:
        """Take in that the store has the job, which had not ended."""
        self._peer.context.backend.seen(self._job_id, self._told)

    def refuse(self, code: str, message: str) -> None:
        """Answer the call without the end of the job, unless that is about to be told."""
        if self._is_pouring:
            return
        if self._has_begun:
            self._finish(lambda: self._peer.refuse(self._call, code, message))
        else:
            self._refusal = code, message

    def leave(self) -> None:
        """Listen no more, and answer nothing. Idempotent."""
        if self._is_over:
            return
        self._is_over = True
        context = self._peer.context
        context.waits -= 1
        context.backend.forget(self._job_id, self._told)
        self._peer.standing.end_wait(self)
        if self._timer is not None:
            self._timer.cancel()

    def _give_up(self) -> None:
        self.refuse("timeout", "the job has not ended in time; it goes on")

    def _tell(self, end: End, is_alone: bool) -> None:
        if self._has_begun and _is_long(end):
            self._is_pouring = True
            self._peer.context.pouring.add(lambda: self._finish(lambda: self._answer(end)))
        elif self._has_begun:
            self._finish(lambda: self._answer(end), at_once=is_alone)
        else:
            self._end = end
            if self._settle is not None:
                self._settle()

    def _finish(self, answer: Callable[[], None], *, at_once: bool = False) -> None:
        if self._is_over:
            return
        self.leave()
        answer()
        self._peer.settle(0, at_once=at_once)

    def _answer_insert(self, end: End) -> None:
        if end == DELETED:
            self._peer.refuse(self._call, "deleted", ERROR_CODES["deleted"])
        elif end.state is State.SUCCESS:
            result = NULL if end.result is None else Raw(end.result)
            self._peer.answer(self._call, _encode(EndView(end.id, end.state.word, result)))
        elif end.state is State.CANCELLED:
            is_owners = end.error in (None, State.CANCELLED.word)
            self._peer.refuse(self._call, "cancelled", ERROR_CODES["cancelled"] if is_owners else str(end.error))
        else:
            self._peer.refuse(self._call, "job_failed", end.error or "failed")


def _is_long(end: End) -> bool:
    return end != DELETED and end.result is not None and len(end.result) > LITTLE_BYTES


def await_end(peer: Peer, call: Call, job_id: str, waits_s: float, look: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    """Answer `call` with what `look` returns of a job, once that has ended; what is known of its end, if that is no more there.

    Args: call: detached. waits_s: from now on. look: raises CallError where nothing is known of the job.
    Raises: CallError: too many calls wait.
    """
    check_room(peer)

    def ended(end: End) -> None:
        if end == DELETED:
            peer.refuse(call, "deleted", ERROR_CODES["deleted"])
        else:
            context.spawn(tell(context.backend.shown(end)), f"call {call.name}")
            peer.defer()

    async def tell(known: dict[str, Any]) -> None:
        try:
            found = await look()
        except Exception:
            found = known  # it was not kept
        # who has the id by now may be another job, or this one again, that waits or runs
        peer.answer(call, _encode(found if found["state"] in _ENDED else known))
        peer.settle()

    async def begin() -> None:
        try:
            found = await look()
        except Exception as error:
            hotjob.leave()
            peer.refuse(call, *translate(error))
        else:
            if found["state"] in _ENDED:
                hotjob.leave()
                peer.answer(call, _encode(found))
            else:
                hotjob.saw()
                hotjob.begin(max(0.0, until - loop.time()))
        peer.end_task(0)

    context, loop = peer.context, asyncio.get_running_loop()
    until = loop.time() + waits_s
    hotjob = Hotjob(peer, call, job_id, ended)
    peer.begin_task()
    context.spawn(begin(), f"call {call.name}")
