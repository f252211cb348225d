"""A job as it stands in a tube: enough for the store's claim, and for an operator to know it by."""

from __future__ import annotations

import msgspec

from kqs.job import Entry


class _Body(msgspec.Struct, gc=False):
    order: int
    id: str
    type: str
    prio: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Body).decode


def encode_body(entry: Entry) -> bytes:
    """Return the body: a JSON object with the job's `order`, `id`, `type` and `prio`."""
    return _encode(_Body(entry.order, entry.id, entry.type, entry.prio))


def decode_body(body: bytes, handle: object) -> Entry | None:
    """Return the job of a body, or None for a body that is not ours."""
    try:
        found = _decode(body)
    except msgspec.MsgspecError:
        return None
    return Entry(found.order, found.id, found.type, found.prio, handle)
