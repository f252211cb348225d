"""A fleet under load while its servers are killed and cut off at random, and what must be true when it is over."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from tests.support.asking import RefusedError, ask
from tests.support.fleet import Fleet, Line, Ways, line_to
from tests.support.serving import Served

#: how long a client rests between two inserts, in s; the Java server takes some 200 jobs a second through their lives
PAUSE_S = 0.06
#: how long a client waits for an answer before it goes on with other jobs, in s
GIVE_UP_S = 10
#: what every client inserts
TYPES = (*["work"] * 8, "flaky", "vanishing")


class Member:
    """A server of the fleet that can be killed, started again, and cut off."""

    def __init__(self, fleet: Fleet, name: str, skew_s: float) -> None:
        self.name = name
        self._fleet = fleet
        self._skew_s = skew_s
        self._stack = ExitStack()
        self.mongo = self._stack.enter_context(line_to(fleet.mongo_port))
        self.beanstalkds = [self._stack.enter_context(line_to(port)) for port in fleet.beanstalkd_ports]
        self._running = ExitStack()
        self.served: Served

    def start(self) -> None:
        ways = Ways(self.mongo, self.beanstalkds, self._skew_s)
        serving = self._fleet.serving(self.name, ways, WORKER__CONCURRENCY="10")
        self.served = self._running.enter_context(serving)

    def kill(self) -> None:
        self.served.stop(signal.SIGKILL)
        self._running.close()

    def close(self) -> None:
        self._running.close()
        self._stack.close()

    @property
    def lines(self) -> list[Line]:
        return [self.mongo, *self.beanstalkds]


class Client:
    """Inserts at one server until told to stop; whatever it gets no answer for may have been accepted, or not."""

    def __init__(self, number: int, member: Member) -> None:
        self._number = number
        self._member = member
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._insert_for_ever, name=f"client of {member.name}")
        self._random = random.Random(number)
        self._sent = 0
        self._wanted = 0
        self._reached = threading.Event()
        self.accepted: list[str] = []
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def await_accepted(self, count: int) -> None:
        """Return when `count` more jobs have been accepted."""
        self._reached.clear()
        self._wanted = len(self.accepted) + count
        assert self._reached.wait(30), f"{self._member.name} accepts nothing"

    def _insert_for_ever(self) -> None:
        while not self._stop.wait(PAUSE_S):
            self.accepted += self._insert()
            if len(self.accepted) >= self._wanted:
                self._reached.set()

    def _insert(self) -> list[str]:
        try:
            ids: list[str] = ask(self._member.served, "insert", self._jobs(), GIVE_UP_S)
        except (RefusedError, EOFError, OSError):
            return []
        return ids

    def _jobs(self) -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = []
        for _ in range(self._random.randrange(1, 4)):
            self._sent += 1
            job: dict[str, Any] = {"type": self._random.choice(TYPES), "data": f"{self._number}-{self._sent}"}
            job["prio"] = self._random.randrange(9)
            if self._random.random() < 0.2:
                job["delay"] = self._random.random()
            if self._random.random() < 0.2:
                job["id"] = f"shared-{self._sent}"  # other clients insert it as well
            jobs.append(job)
        return jobs


@contextmanager
def members(fleet: Fleet, skews_s: Sequence[float]) -> Iterator[list[Member]]:
    """Run a server for each clock that is so far ahead."""
    with ExitStack() as stack:
        joined: list[Member] = []
        for number, skew_s in enumerate(skews_s):
            member = Member(fleet, f"server{number}", skew_s)
            stack.callback(member.close)
            member.start()
            joined.append(member)
        yield joined


@contextmanager
def load_on(joined: Sequence[Member]) -> Iterator[list[Client]]:
    """Have a client insert at every server."""
    clients = [Client(number, member) for number, member in enumerate(joined)]
    try:
        yield clients
    finally:
        for client in clients:
            client.stop()
