"""The checksum of what a job is from its acceptance on: of all that decides what runs.

It stands in the job's record, which may lie on a disk for years; a record that does not fit it is never run. A job of a
known type and priority costs one pass over its data. Whatever single bit changes, in data, type, priority, order, or what else
was given, changes it. What stands in the bits above its 32 is apart from all that, so that what changes a checksum leaves them.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from kqs.crc import crc32c

_encode = msgspec.msgpack.Encoder().encode
_MOST = 0xFFFFFFFF
_MOST_OF_KEYS = 0x7FFFFFFF  # together they are a signed integer of 64 bits, as the engines store them
_TOP = 0x80000000
_POLYNOMIAL = 0x82F63B78


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
    if resource is not None:  # beside the rest, so that what changes a checksum need not know it
        found ^= crc32c(_encode(resource))
    return int(crc32c(given(id_, options, expire_at), found))


def given(id_: str | None, options: bytes | None, expire_at: float | None) -> bytes:
    """Return what a checksum is of beside type, priority, order, data and resource."""
    if id_ is None and expire_at is None and options is None:
        return b""
    return _encode((id_, options, expire_at))


def of_keys(group: str | None, unique: str | None) -> int:
    """Return what stands in the bits above those of the checksum of a job that was given one of these: 0 of any other."""
    if group is None and unique is None:
        return 0
    return (int(crc32c(_encode((group, unique)))) & _MOST_OF_KEYS) << 32


def with_keys(found: int, keys: int) -> int:
    """Return a checksum of a job's with that `of_keys`, if it has none."""
    return found | keys if 0 <= found <= _MOST else found


def reranked(
    type_: str, was: int, prio: int, data_bytes: int, id_: str | None, expire_at: float | None, options: bytes | None
) -> int:
    """Return by what to XOR the checksum of a job whose priority was `was` and becomes `prio`. data_bytes: of its data.

    As `moved`: what two beginnings make of the same text differs by what they make of as many zeros.
    """
    zeros = bytes(data_bytes + len(given(id_, options, expire_at)))
    return int(crc32c(zeros, kind_checksum(type_, was)) ^ crc32c(zeros, kind_checksum(type_, prio)))


def moved(was: float, expire_at: float) -> int:
    """Return by what to XOR the checksum of a job that expires at `expire_at` instead of `was`.

    Of two texts of one length, what their CRCs differ in follows from what the texts differ in, and the instant stands last. So
    no data is read for it, and what is damaged does not fit afterwards either.
    """
    return int(crc32c(_encode(float(was))) ^ crc32c(_encode(float(expire_at))))


def reordered(found: int, data_bytes: int, orders: tuple[int, int], was: bytes, now: bytes) -> int:
    """Return what becomes of the checksum `found` of a job whose order, and what was `given` with it, become others.

    As `moved`: no data is read. Args: orders: the one it had, and the one it has from now on.
    """
    low = found & _MOST
    return found - low + _reordered(low, data_bytes, orders, was, now)


def _reordered(found: int, data_bytes: int, orders: tuple[int, int], was: bytes, now: bytes) -> int:
    change = orders[0] ^ orders[1]
    zeros = bytes(data_bytes)
    plain = crc32c(zeros, (change >> 32) ^ (change & _MOST)) ^ crc32c(zeros)
    longer = len(now) - len(was)
    if longer >= 0:
        more = bytes(longer)
        return int(crc32c(more, found) ^ crc32c(was + more) ^ crc32c(now, plain))
    return _before(found ^ crc32c(was) ^ crc32c(now + bytes(-longer), plain), -longer)


def _before(found: int, count: int) -> int:
    """Return the checksum of what becomes `found` with `count` zero bytes behind it."""
    register = found ^ _MOST
    for _ in range(8 * count):
        register = ((register ^ _POLYNOMIAL) << 1 | 1) & _MOST if register & _TOP else register << 1
    return register ^ _MOST
