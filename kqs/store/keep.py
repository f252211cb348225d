"""How long a job's own options keep its record."""

from __future__ import annotations

import msgspec


class _OwnKeep(msgspec.Struct):
    keep: float | None = None


_decode_keep = msgspec.json.Decoder(_OwnKeep).decode


def own_keep_s(options: bytes | str | None, otherwise: float | None) -> float | None:
    """Return how long to keep a record in s, None for ever: as the job's options say, else `otherwise`.

    Options that are damaged say nothing.
    """
    own = None if options is None else _own_keep(options)
    if own is None:
        return otherwise
    return None if own < 0 else own


def _own_keep(options: bytes | str) -> float | None:
    try:
        return _decode_keep(options).keep
    except (msgspec.DecodeError, ValueError):
        return None
