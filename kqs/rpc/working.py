"""The calls by which remote workers ask for runs. What they say of these is in runs.py.

`reserve` and `work` stand: they are not in flight, and are answered when there is something to answer. Source:
docs/protocol.md, "The worker's calls".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec
from msgspec import UNSET, Raw

from kqs.errors import CallError
from kqs.remote import OpenRun
from kqs.rpc.parameters import ReserveQuery, WithdrawQuery, WorkQuery
from kqs.rpc.parsing import parse
from kqs.rpc.peer import Peer
from kqs.rpc.standing import MAX_STANDING
from kqs.wire.call import NULL, Call, detached
from kqs.wire.runs import GivenRun

#: a `reserve` that does not wait is answered so late, in s, if nothing comes: a job that was just inserted is on its way
LEAST_WAIT_S = 0.05
#: intermediate answers of `work` are cut where their data exceeds this
_EVENT_BYTES = 256 * 1024
_NOTHING = Raw(b"[]")
_TRUE = Raw(b"true")

_encode = msgspec.json.Encoder().encode


def _view(run: OpenRun) -> GivenRun:
    job, options = run.run, run.lease.options
    return GivenRun(
        run.token,
        job.claim.id,
        job.type,
        Raw(run.data),
        job.attempt,
        job.failures,
        job.ghosts,
        options.ttr,
        options.auto_touch,
        options.time_limit,
        Raw(run.progress) if run.progress else UNSET,
        job.resource,
        Raw(job.batch) if job.batch else UNSET,
    )


def reserve(peer: Peer, call: Call) -> None:
    """Give so many runs as soon as there is one, or none when the wait is over."""
    query = parse(ReserveQuery, call)
    if not may_stand(peer, call, _NOTHING):
        return
    call, party = detached(call), peer.standing.asking()

    def given(runs: list[OpenRun]) -> None:
        timer.cancel()
        answer = _encode([_view(run) for run in runs])
        peer.after_earlier_inserts(lambda: peer.answer(call, answer))
        peer.settle(0, at_once=len(runs) == 1)  # a lone run is not worth another turn of the loop

    def ended() -> None:
        timer.cancel()
        peer.answer(call, _NOTHING)
        peer.settle(0)

    timer = peer.context.supervisor.call_later(max(query.wait, LEAST_WAIT_S), "reserve", lambda: order.end())
    order = party.order(frozenset(query.types), query.count, query.name, given, ended, held=query.hold)
    peer.standing.add(call, order, ended)


def work(peer: Peer, call: Call) -> None:
    """Give runs whenever there are some and fewer than `room` are open, until the server stops; tell which are to end."""
    query = parse(WorkQuery, call)
    if not may_stand(peer, call, NULL, is_for_more=query.room > 0):
        return
    call, party = detached(call), peer.standing.asking()

    def given(runs: list[OpenRun]) -> None:
        for part in _parts(runs):
            value = _encode([_view(run) for run in part])
            peer.after_earlier_inserts(partial(peer.event, call, value))  # whose they may be
        peer.settle(0, at_once=len(runs) == 1)

    def ended() -> None:
        peer.answer(call, NULL)
        peer.settle(0)

    def lost(run: OpenRun) -> None:
        peer.event(call, _encode({"cancel": run.token}))
        peer.settle(0)

    order = party.order(frozenset(query.types), query.room, query.name, given, ended, lost, held=query.hold)
    peer.standing.add(call, order, ended)


def may_stand(peer: Peer, call: Call, nothing: Raw, *, is_for_more: bool = True) -> bool:
    """Tell whether a call that stands may do so. If not, it was answered if it wants an answer.

    Args: nothing: the answer where the client's input has ended, so that nobody is left to be told anything.
    is_for_more: it asks for what a server that stops does not give.
    Raises: CallError: it is refused.
    """
    if is_for_more and peer.context.draining:
        raise CallError(f"the server is stopping, {call.name} takes no more", "draining")
    if peer.standing.is_full:
        raise CallError(f"at most {MAX_STANDING} calls of a connection may stand", "busy")
    if call.notification:
        return False
    if peer.standing.has_ended:
        peer.answer(call, nothing)
        return False
    return True


def _parts(runs: Sequence[OpenRun]) -> list[Sequence[OpenRun]]:
    """Cut runs where their data, and progress, is too much for one line."""
    sizes = [len(run.data) if run.progress is None else len(run.data) + len(run.progress) for run in runs]
    total = sum(sizes)
    if total <= _EVENT_BYTES:
        return [runs]
    parts: list[Sequence[OpenRun]] = []
    start = size = 0
    for index, run_bytes in enumerate(sizes):
        if index > start and size + run_bytes > _EVENT_BYTES:
            parts.append(runs[start:index])
            start, size = index, 0
        size += run_bytes
    parts.append(runs[start:])
    return parts


def withdraw(peer: Peer, call: Call) -> None:
    """End a standing call of this connection; its runs go on."""
    query = parse(WithdrawQuery, call)
    if not peer.standing.withdraw(query.call):
        raise CallError(f"no call of this connection with the id {_encode(query.call).decode():.220} stands", "not_found")
    peer.answer(call, _TRUE)
