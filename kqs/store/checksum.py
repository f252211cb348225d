"""The checksum of what a job is from its acceptance on: of all that decides what runs.

It stands in the job's record, which may lie on a disk for years; a record that does not fit it is never run. A job of a
known type and priority costs one pass over its data. Whatever single bit changes, in data, type, priority, order, or what else
was given, changes it.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec
from crc32c import crc32c

_encode = msgspec.msgpack.Encoder().encode


@lru_cache(maxsize=1024)
def kind_checksum(type_: str, prio: int) -> int:
    """Return what `plain_checksum` begins with."""
    return int(crc32c(_encode((type_, prio))))


def plain_checksum(order: int, kind: int, data: bytes) -> int:
    """Return the checksum of a job that was given nothing but type, priority and data. kind: their `kind_checksum`."""
    return crc32c(data, kind ^ (order >> 32) ^ (order & 0xFFFFFFFF))


def checksum(
    order: int,
    type_: str,
    prio: int,
    data: bytes,
    id_: str | None,
    expire_at: float | None,
    options: bytes | None,
    resource: str | None = None,
) -> int:
    """Return the checksum of a job, 32 bits. id_: None where it follows from the order."""
    found = crc32c(data, kind_checksum(type_, prio) ^ (order >> 32) ^ (order & 0xFFFFFFFF))
    if resource is not None:  # beside the rest, so that `reranked` and `moved` need not know it
        found ^= crc32c(_encode(resource))
    if id_ is None and expire_at is None and options is None:
        return int(found)
    return int(crc32c(_encode((id_, options, expire_at)), found))


def reranked(
    type_: str, was: int, prio: int, data_bytes: int, id_: str | None, expire_at: float | None, options: bytes | None
) -> int:
    """Return by what to XOR the checksum of a job whose priority was `was` and becomes `prio`. data_bytes: of its data.

    As `moved`: what two beginnings make of the same text differs by what they make of as many zeros.
    """
    plain = id_ is None and expire_at is None and options is None
    zeros = bytes(data_bytes + (0 if plain else len(_encode((id_, options, expire_at)))))
    return int(crc32c(zeros, kind_checksum(type_, was)) ^ crc32c(zeros, kind_checksum(type_, prio)))


def moved(was: float, expire_at: float) -> int:
    """Return by what to XOR the checksum of a job that expires at `expire_at` instead of `was`.

    Of two texts of one length, what their CRCs differ in follows from what the texts differ in, and the instant stands last. So
    no data is read for it, and what is damaged does not fit afterwards either.
    """
    return int(crc32c(_encode(float(was))) ^ crc32c(_encode(float(expire_at))))
