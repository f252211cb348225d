"""A job as it stands in a tube: enough for the store's claim, and for an operator to know it by.

The run takes its data from the store, whose claim brings it anyway and is the truth; in the body it is there to be seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from msgspec import UNSET, Raw, UnsetType

from kqs.job import Entry
from kqs.wire.beanstalk.commands import MAX_U32, Put

#: in the last second of a ttr a server answers DEADLINE_SOON; and it takes 0 for 1
MIN_TTR_S = 10


class _Known(msgspec.Struct, gc=False):
    """What a job is taken by."""

    id: str
    type: str
    prio: int
    order: int
    store: str


class _Body(_Known, gc=False):
    """The whole; the rest is for people."""

    options: Raw | UnsetType = UNSET
    data: Raw | UnsetType = UNSET


class Foreign(NamedTuple):
    """A job of another store, which is none of our business."""

    store_id: str
    prio: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Known).decode
_check = msgspec.json.Decoder(Raw).decode


class Bodies:
    """Makes puts of jobs, and jobs of bodies."""

    def __init__(self, store_id: str, ttr_of: Callable[[str, bytes | None], float]) -> None:
        """Args: store_id: of our store. ttr_of: a type's, or with its options a job's."""
        self._store_id = store_id
        self._ttr_of = ttr_of

    def put(self, entry: Entry, max_job_bytes: int) -> Put:
        """Return the put of a job, without its options and data if it would be too big with them."""
        body = _Body(entry.id, entry.type, entry.prio, entry.order, self._store_id, _shown(entry.options), _shown(entry.data))
        encoded = _encode(body)
        if len(encoded) > max_job_bytes:
            body.options = body.data = UNSET
            encoded = _encode(body)
        return Put(entry.prio, 0, self._ttr_s(entry), encoded)

    def _ttr_s(self, entry: Entry) -> int:
        try:
            ttr_s = self._ttr_of(entry.type, entry.options)
        except msgspec.MsgspecError:  # damaged, which the claim will find
            ttr_s = self._ttr_of(entry.type, None)
        return min(max(MIN_TTR_S, math.ceil(ttr_s)), MAX_U32)

    def read(self, body: bytes, handle: object) -> Entry | Foreign | None:
        """Return the job of a body; None for a body that is no job."""
        try:
            found = _decode(body)
        except msgspec.MsgspecError:
            return None
        if found.store != self._store_id:
            return Foreign(found.store, found.prio)
        return Entry(found.order, found.id, found.type, found.prio, handle)


def _shown(value: bytes | None) -> Raw | UnsetType:
    """Return JSON to be laid into a body; what is damaged would make the whole unreadable, so it is left out."""
    if value is None:
        return UNSET
    try:
        _check(value)
    except msgspec.MsgspecError:
        return UNSET
    return Raw(value)
