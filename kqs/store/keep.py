"""What a job's own options say of its times."""

from __future__ import annotations

import msgspec


class _OwnTimes(msgspec.Struct):
    keep: float | None = None
    expire: float | None = None


_decode_times = msgspec.json.Decoder(_OwnTimes).decode
_NOTHING = _OwnTimes()


def own_keep_s(options: bytes | str | None, otherwise: float | None) -> float | None:
    """Return how long to keep a record in s, None for ever: as the job's options say, else `otherwise`.

    Options that are damaged say nothing.
    """
    own = _own_times(options).keep
    if own is None:
        return otherwise
    return None if own < 0 else own


def own_expire_s(options: bytes | str | None, otherwise: float | None) -> float | None:
    """Return how long a job may take to succeed in s, None for ever: as its options say, else `otherwise`."""
    own = _own_times(options).expire
    return otherwise if own is None else own


def _own_times(options: bytes | str | None) -> _OwnTimes:
    if options is None:
        return _NOTHING
    try:
        return _decode_times(options)
    except (msgspec.DecodeError, ValueError):
        return _NOTHING
