"""What is kept of one beanstalkd through all its lives."""

from __future__ import annotations

from collections.abc import Callable

from kqs.broker.beanstalkd.availability import Availability
from kqs.broker.beanstalkd.foreign import Foreigners
from kqs.broker.beanstalkd.shelf import Shelves


class Books:
    """address: HOST:PORT or unix:PATH. shelves: what it is believed to hold. availability: whether it may be given jobs."""

    def __init__(self, address: str, namespace: str, now: Callable[[], float]) -> None:
        """Args: namespace: stands in the names of tubes. now: loop time."""
        self.address = address
        self.shelves = Shelves(namespace)
        self.availability = Availability(address, now)
        self.foreigners = Foreigners(address, now)

    @property
    def problem(self) -> str | None:
        """Return what is wrong, in words, or None."""
        return self.availability.problem or self.foreigners.problem
