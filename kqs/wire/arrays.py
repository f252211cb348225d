"""A long array of jobs in pieces: what was checked once is decoded again without holding anybody up for all of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import Raw

from kqs.wire.scan import runs

_decode_array = msgspec.json.Decoder(list[Raw]).decode


def split_array(text: bytes, count: int) -> Iterator[bytes]:
    """Yield the JSON array of objects `text`, which must be valid, as arrays of `count` objects each, and of the rest.

    Each piece is found when it is asked for, in the time that its own length takes, or two blocks of `scan`.
    """
    found: list[Raw] = []
    for run in runs(text):
        if run is not None:
            found += _decode_array(run[1])
            at = 0
            while len(found) - at > count:
                yield _array(found[at : at + count])
                at += count
            del found[:at]
    if found:
        yield _array(found)


def _array(objects: list[Raw]) -> bytes:
    return b"[%b]" % b",".join(objects)
