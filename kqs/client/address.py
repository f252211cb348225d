"""Where a server listens: `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`."""

from __future__ import annotations

from os import PathLike
from typing import NamedTuple

DEFAULT_HOST = "localhost"
DEFAULT_PORT = 14151
MAX_PORT = 65535


class Address(NamedTuple):
    """A TCP address, or a UNIX socket when `socket` is not empty."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    socket: str | PathLike[str] = ""

    def __str__(self) -> str:
        if self.socket:
            return f"unix:{self.socket}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return the address that `text` names; host and port may each be left out.

    Raises: ValueError: the port is no number from 1 to 65535, the path is empty, or it is a URL, or a port without a colon.
    """
    if text.startswith("unix:"):
        if text == "unix:":
            raise ValueError("unix: needs the path of a socket")
        return Address(socket=text.removeprefix("unix:"))
    if "://" in text:
        raise ValueError(f"{text!r}: expected HOST:PORT or unix:PATH, not a URL")
    if text.isascii() and text.isdigit():  # which a resolver takes for a host: 0.0.55.71 for 14151
        raise ValueError(f"{text!r}: expected HOST:PORT or unix:PATH; a port of this machine is :{text}")
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]") or (":" in host and not host.endswith("]")):  # no port, or a bare IPv6 address
        host, port = text, ""
    if port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= MAX_PORT):
        raise ValueError(f"{text!r}: the port must be a number from 1 to {MAX_PORT}")
    return Address(host.strip("[]") or DEFAULT_HOST, int(port or DEFAULT_PORT))
