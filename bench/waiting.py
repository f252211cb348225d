"""Connections that each wait in `reserve`, and jobs that come one at a time: python -m bench.waiting PORT CONNECTIONS COUNT.

Says `ready` once all wait; then inserts COUNT jobs, each when the one before is reported and its worker waits again, and prints
JSON: times in ms, from before the insert's send until a worker has the run, and how many others were woken.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import sys
import time

REST_S = 0.001
LIMIT_S = 30
ASK = b'{"id":"r","n":"reserve","m":{"types":["noop"],"wait":3600}}\n'


class Waiting:
    """Workers of which each has asked for one run."""

    def __init__(self, port: int, connections: int) -> None:
        self._port = port
        self._poller = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self.more_woken = 0
        for _ in range(connections):
            worker = self.connect()
            self._sockets[worker.fileno()] = worker
            self._poller.register(worker, select.EPOLLIN)
            worker.sendall(ASK)

    def connect(self) -> socket.socket:
        """Return a new connection."""
        one = socket.create_connection(("127.0.0.1", self._port))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return one

    def taken(self) -> tuple[socket.socket, str, float]:
        """Wait for a run; return who has it, its token, and the time of that."""
        woken = self._poller.poll(LIMIT_S)
        at = time.monotonic()
        if not woken:
            sys.exit("no worker has got the run")
        self.more_woken += len(woken) - 1
        worker = self._sockets[woken[0][0]]
        (run,) = json.loads(worker.recv(65536))["m"]
        return worker, run["run"], at


def main() -> None:
    """Measure and print."""
    port, connections, count = map(int, sys.argv[1:])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    waiting = Waiting(port, connections)
    client = waiting.connect()
    client.sendall(b'{"n":"ping"}\n')
    client.recv(4096)
    time.sleep(1)  # the server has read what all have asked for
    print("ready", flush=True)
    took: list[float] = []
    for _ in range(count):
        sent = time.monotonic()
        client.sendall(b'{"n":"insert","m":{"type":"noop"}}\n')
        worker, token, at = waiting.taken()
        took.append((at - sent) * 1000)
        client.recv(4096)
        worker.sendall(b'{"id":"f","n":"finish","m":{"run":"%b","report":"ok"}}\n' % token.encode())
        worker.recv(4096)
        worker.sendall(ASK)
        time.sleep(REST_S)
    took.sort()
    found = {"p50_ms": took[count // 2], "p99_ms": took[count * 99 // 100], "others_woken": waiting.more_woken}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
