"""What is kept of one beanstalkd through all its lives."""

from __future__ import annotations

from collections.abc import Callable

from kqs.broker.beanstalkd.foreign import Foreigners
from kqs.broker.beanstalkd.shelf import Shelves
from kqs.broker.beanstalkd.standing import Standing


class Books:
    """address: HOST:PORT or unix:PATH. shelves: what it is believed to hold. standing: whether it may be given jobs."""

    def __init__(self, address: str, namespace: str, now: Callable[[], float]) -> None:
        """Args: namespace: stands in the names of tubes. now: loop time."""
        self.address = address
        self.shelves = Shelves(namespace)
        self.standing = Standing(address, now)
        self.foreigners = Foreigners(address, now)

    @property
    def problem(self) -> str | None:
        """Return what is wrong, in words, or None."""
        return self.standing.problem or self.foreigners.problem
