"""What a socket tells of its peer, and how it is tuned."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ipaddress
import select
import socket
import sys
import termios

from kqs.keepalive import notice_vanished


def where(transport: asyncio.BaseTransport | None) -> str:
    """Return where a peer is, for the log."""
    found = transport.get_extra_info("peername") if transport else None
    return f"{found[0]}:{found[1]}" if isinstance(found, tuple) else "unix"


def is_unix(transport: asyncio.BaseTransport | None) -> bool:
    """Tell whether a peer came over the UNIX socket."""
    sock = transport.get_extra_info("socket") if transport else None
    return sock is not None and sock.family == socket.AF_UNIX


def is_of_this_machine(transport: asyncio.BaseTransport | None) -> bool:
    """Tell whether a peer is on this machine."""
    found = transport.get_extra_info("peername") if transport else None
    if not isinstance(found, tuple):
        return is_unix(transport)
    address = ipaddress.ip_address(found[0].partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def unsent_bytes(descriptor: int) -> int:
    """Return how much of what was written to a socket the kernel holds still; 0 if it does not tell."""
    try:
        return int.from_bytes(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, ValueError):
        return 0


def is_broken(descriptor: int) -> bool:
    """Tell whether the connection of an open descriptor was reset, or closed both ways; False if nobody can tell."""
    if not hasattr(select, "poll"):
        return False
    one = select.poll()
    one.register(descriptor, 0)
    return bool(one.poll(0))


def tune(sock: socket.socket | None) -> None:
    """Send small answers at once, and notice peers that vanished."""
    if sock is None or sock.family == socket.AF_UNIX:
        return
    with contextlib.suppress(OSError):  # the peer may be gone already
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    notice_vanished(sock)
