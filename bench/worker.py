"""A remote worker in Python that is tuned, for jobs that need no work: python -m bench.worker work|reserve PORT SIZE.

One connection; tokens are found in what arrives without decoding it, and all of one piece are reported in one list. SIZE: the
room of `work`, or the count of each `reserve`, of which four are asked at a time. Says `ready` once it has asked.
"""

from __future__ import annotations

import re
import socket
import sys

ASKED = 4
READ_BYTES = 1 << 18
_TOKEN = re.compile(rb'"run":"([^"]+)"')
#: in the answer to a `reserve`, which has runs; `finish` is answered with lists of true
_GIVEN = b'"s":"end","m":[{"run"'
_NOTHING = b'"s":"end","m":[]'


def main() -> None:
    """Work until the server is gone."""
    way, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    server = socket.create_connection(("127.0.0.1", port))
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if way == "work":
        again = b""
        server.sendall(b'{"id":"w","n":"work","m":{"types":["noop"],"room":%d,"worker":"tuned"}}\n' % size)
    else:
        again = b'{"id":"r","n":"reserve","m":{"types":["noop"],"count":%d,"wait":600,"worker":"tuned"}}\n' % size
        server.sendall(again * ASKED)
    print("ready", flush=True)
    rest = b""
    while data := server.recv(READ_BYTES):
        lines, newline, rest = (rest + data).rpartition(b"\n")
        if not newline:
            continue
        if b'"code"' in lines:
            sys.exit(f"refused: {lines[:1000]!r}")
        tokens = _TOKEN.findall(lines)
        if tokens:
            reports = b",".join([b'{"run":"%b","report":"ok"}' % token for token in tokens])
            server.sendall(
                b'{"id":0,"n":"finish","m":[%b]}\n' % reports + again * (lines.count(_GIVEN) + lines.count(_NOTHING))
            )


if __name__ == "__main__":
    main()
