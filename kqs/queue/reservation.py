"""New jobs that are claimed for consumers with room, as attempt 1, and have not been delivered yet.

A reservation is delivered or undone, once. Call from the loop thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from kqs.job import Accepted, first_run
from kqs.queue.consumer import Consumer
from kqs.queue.limits import Limits

#: of a new job
FIRST_ATTEMPT = 1


class Reservation:
    """See the module docstring. orders: those of the jobs; of each consumer's by rank."""

    __slots__ = ("_jobs", "_limits", "orders")

    def __init__(self, limits: Limits) -> None:
        """Args: limits: those that gave the jobs their places."""
        self._jobs: list[tuple[Consumer, list[Accepted]]] = []
        self._limits = limits
        self.orders: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._jobs)

    @property
    def jobs(self) -> list[Accepted]:
        """Return the jobs, by age."""
        return sorted(self.each_job, key=lambda job: job.order)

    @property
    def each_job(self) -> Iterator[Accepted]:
        """Return the jobs, in no order."""
        return (job for _, jobs in self._jobs for job in jobs)

    def add(self, consumer: Consumer, jobs: list[Accepted], now: float) -> None:
        """Claim `jobs` for a consumer that has room for them."""
        worker = consumer.worker if consumer.is_remote else None
        for job in jobs:
            job.claimed_at = now
            job.worker = worker
            job.held = consumer.is_held
            self.orders.append(job.order)
        consumer.reserve(len(jobs))
        self._jobs.append((consumer, jobs))

    def deliver(self, epoch: int, known: Collection[int] = ()) -> None:
        """Hand the runs over, in boot `epoch`, but for those of `known` orders: such a job was accepted before."""
        while self._jobs:
            consumer, jobs = self._jobs.pop()
            if known and self._limits.gates:
                self._free([job for job in jobs if job.order in known])
            consumer.settle(len(jobs), [first_run(job, epoch) for job in jobs if job.order not in known])

    def withdraw(self, jobs: Collection[Accepted]) -> None:
        """Take the claims of some jobs back."""
        orders = {job.order for job in jobs}
        for consumer, claimed in self._jobs:
            gone = [job for job in claimed if job.order in orders]
            claimed[:] = [job for job in claimed if job.order not in orders]
            for job in gone:
                job.claimed_at = 0.0
            self._free(gone)
            consumer.free(len(gone))
        self.orders = [order for order in self.orders if order not in orders]

    def undo(self) -> None:
        """Take all claims back that were not delivered, and give their room back. Idempotent."""
        while self._jobs:
            consumer, jobs = self._jobs.pop()
            for job in jobs:
                job.claimed_at = 0.0
            self._free(jobs)
            consumer.settle(len(jobs), [])

    def _free(self, jobs: Iterable[Accepted]) -> None:
        limits = self._limits
        if limits.gates:
            for job in jobs:
                limits.free(job.type, job.key, FIRST_ATTEMPT, is_unused=True)
