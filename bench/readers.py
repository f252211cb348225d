"""Readers of `events`: python -m bench.readers PORT COUNT. Says `ready` once all have asked."""

from __future__ import annotations

import select
import socket
import sys

ASK = b'{"id":1,"n":"events","m":{}}\n'
SETTLE_PING = b'{"id":2,"n":"ping"}\n'


def main() -> None:
    """Read for ever."""
    port, count = int(sys.argv[1]), int(sys.argv[2])
    poller = select.epoll()
    readers: dict[int, socket.socket] = {}
    for _ in range(count):
        one = socket.create_connection(("127.0.0.1", port))
        one.sendall(ASK + SETTLE_PING)
        assert b"pong" in one.recv(65536)
        readers[one.fileno()] = one
        poller.register(one, select.EPOLLIN)
    print("ready", flush=True)
    room = bytearray(1 << 20)
    while True:
        for number, _ in poller.poll():
            if not readers[number].recv_into(room):
                sys.exit("the server has ended a reader")


if __name__ == "__main__":
    main()
