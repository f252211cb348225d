"""The call that hears what happens to jobs (kqs.rpc.happenings). Source: docs/protocol.md, "events"."""

from __future__ import annotations

from kqs.rpc.happenings import Interest, Reader
from kqs.rpc.parameters import EventsQuery
from kqs.rpc.parsing import parse
from kqs.rpc.peer import Peer
from kqs.rpc.working import may_stand
from kqs.wire.call import NULL, Call, detached


def listen(peer: Peer, call: Call) -> None:
    """Tell what happens to jobs, until the server stops."""
    query = parse(EventsQuery, call)
    if not may_stand(peer, call, NULL):
        return
    call = detached(call)
    wanted = Interest(
        None if query.types is None else frozenset(query.types), None if query.events is None else frozenset(query.events)
    )
    reader = Reader(peer.context.happenings, peer, call, wanted)

    def ended() -> None:
        peer.answer(call, NULL)
        peer.settle(0)

    peer.context.happenings.add(reader)
    peer.standing.listen(call, reader, ended)
