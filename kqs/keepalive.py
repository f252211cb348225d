"""Has the kernel notice a peer that vanished without a word: a machine that lost its power, or a network that drops all."""

from __future__ import annotations

import contextlib
import socket

#: a peer that answers nothing for so long is gone, in s: longer than a network takes to find another way
VANISHED_S = 120
#: of a connection on which nothing is sent: a probe after so long, others so long after, and how many
_KEEPALIVE = {"TCP_KEEPIDLE": VANISHED_S // 2, "TCP_KEEPINTVL": VANISHED_S // 8, "TCP_KEEPCNT": 4}


def notice_vanished(sock: socket.socket | None, *, must_take: bool = False) -> None:
    """Have a TCP connection end `VANISHED_S` after its peer was heard of last; any other socket stays as it is.

    Args: must_take: also while something is on its way to the peer, for which Linux alone takes a quarter of an hour. But then
        a peer that is there, and takes nothing for so long, counts as gone as well.
    """
    if sock is None or sock.family == socket.AF_UNIX:
        return
    with contextlib.suppress(OSError):  # the peer may be gone already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        if must_take and hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, VANISHED_S * 1000)
