"""Job types as tube names, and back.

    kq-TYPE              bytes that a tube name may not have, and `$` and `;`, become $XX (hexadecimal)
    NAMESPACE;kq-TYPE    the namespace encoded likewise; a raw `;` never stands in either part, so fleets cannot meet
    kq-$$HASH            a type whose name would be over 200 bytes: SHA-256 of the type; the job's body tells the type

A namespace of 32 bytes, the most that `[server] namespace` may have, always fits with a hash. An operator finds a plainly
named type under its plain name. Source of the character set: `doc/protocol.txt`, "Names".
"""

from __future__ import annotations

import hashlib
import re

from kqs.wire.beanstalk.commands import MAX_TUBE_BYTES

PREFIX = "kq-"

_UNSAFE = re.compile(rb"[^A-Za-z0-9+/._()-]")
_ESCAPE = re.compile(rb"\$([0-9A-F]{2})")
_ENCODED = re.compile(rb"(?:[A-Za-z0-9+/._()-]|\$[0-9A-F]{2})+")


def tube_of(type_: str, namespace: str = "") -> str:
    """Return the tube that jobs of a type go to: a legal tube name, the same for ever."""
    front = f"{_encode(namespace.encode())};{PREFIX}" if namespace else PREFIX
    if front.startswith("-"):
        front = f"$2D{front[1:]}"
    raw = type_.encode()
    name = front + _encode(raw)
    if len(name) > MAX_TUBE_BYTES:
        name = f"{front}$${hashlib.sha256(raw).hexdigest()}"
    return name


def type_of(tube: str, namespace: str = "") -> str | None:
    """Return the type whose tube this is; None for a tube of others, and for one that is named by a hash."""
    front = tube_of("", namespace)
    raw = tube.removeprefix(front).encode("ascii", "replace")
    if not tube.startswith(front) or not _ENCODED.fullmatch(raw):
        return None
    try:
        type_ = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), raw).decode()
    except UnicodeDecodeError:
        return None
    return type_ if tube_of(type_, namespace) == tube else None


def _encode(raw: bytes) -> str:
    return _UNSAFE.sub(lambda match: b"$%02X" % match[0][0], raw).decode()
