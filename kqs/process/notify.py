"""Tells systemd how the daemon fares, in the datagrams of sd_notify(3).

Without NOTIFY_SOCKET in the environment every method does nothing and answers False. Nothing here raises or blocks:
a service manager that cannot be reached must not stop the server.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

_USEC_PER_S = 1_000_000


class Notifier:
    """The daemon's line to its service manager. Call from any thread.

    watchdog_interval_s: send `watchdog` at least this often (half of what systemd allows), or None when it does not ask.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Args: environ: where NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are looked up, once."""
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_interval_s = _watchdog_interval_s(environ) if self._address else None

    def ready(self) -> bool:
        """Say that replay is done and every address is listening."""
        return self._send("READY=1")

    def stopping(self) -> bool:
        """Say that the shutdown has begun."""
        return self._send("STOPPING=1")

    def extend_timeout(self, seconds: float) -> bool:
        """Ask for `seconds` more, from now, for the start or stop that is going on."""
        return self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * _USEC_PER_S)}")

    def watchdog(self) -> bool:
        """Say that the daemon is alive."""
        return self._send("WATCHDOG=1")

    def _send(self, message: str) -> bool:
        """Send one datagram; tell whether it was handed over."""
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(message.encode(), self._address)
        except OSError:
            return False
        return True


def _address(value: str) -> str:
    """Return the socket's address, "" when there is none to talk to; a leading @ stands for the abstract name space's NUL."""
    if value.startswith("@"):
        return "\0" + value[1:]
    return value if value.startswith("/") else ""


def _watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    allowed = environ.get("WATCHDOG_USEC", "")
    if not allowed.isdecimal() or int(allowed) == 0:
        return None
    return int(allowed) / _USEC_PER_S / 2
