"""The call that hears what happens to jobs (kqs.rpc.happenings). Source: docs/protocol.md, "events"."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from kqs.queue.events import Word
from kqs.rpc.happenings import Interest, Reader
from kqs.rpc.parameters import TYPES_BYTES
from kqs.rpc.parsing import Parameters, parse
from kqs.rpc.peer import Peer
from kqs.rpc.working import check_types, may_stand
from kqs.wire.call import NULL, Call, detached
from kqs.wire.runs import MAX_TYPES


class EventsQuery(Parameters, frozen=True, kw_only=True):
    """Argument of `events`. types, events: only these; None: all."""

    MAX_BYTES = TYPES_BYTES
    RULES: ClassVar = {"types": check_types}

    types: Annotated[list[str], Meta(min_length=1, max_length=MAX_TYPES)] | None = None
    events: (
        Annotated[list[Word], Meta(min_length=1, extra_json_schema={"expected": f"a list of some of {', '.join(Word)}"})] | None
    ) = None


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
