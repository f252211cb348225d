"""Jobs of other stores, met in tubes of ours: for how long each is put aside, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable

from kqs.broker.beanstalkd.body import Foreign
from kqs.log import get_logger

#: how long after meeting a job of another store that is a problem
FOREIGN_S = 60.0
#: a job of another store is put aside so long, in s, for its own server to come by; for a second more with each
#: `FOREIGN_STEP` met in a minute, since that server may be no more
FOREIGN_DELAY_S = 1
FOREIGN_STEP = 1000

_log = get_logger("kqs.broker")


class Foreigners:
    """Those of one beanstalkd. Call from the loop thread."""

    def __init__(self, address: str, now: Callable[[], float]) -> None:
        """Args: now: loop time."""
        self._address = address
        self._now = now
        self._store_id = ""
        self._until = 0.0
        self._minute = self._count = 0

    @property
    def problem(self) -> str | None:
        """Return what is wrong, in words, or None when none was met lately."""
        if self._until <= self._now():
            return None
        return (
            f"beanstalkd {self._address} has jobs of another store, {self._store_id}, in tubes of ours: "
            "servers that share it but no store need a [server] namespace of their own"
        )

    def met(self, job: Foreign) -> int:
        """Note one; return for how long to put it aside, in s."""
        now = self._now()
        if self._until <= now:
            _log.warning("jobs of another store in our tubes", server=self._address, store=job.store_id)
        self._store_id = job.store_id
        self._until = now + FOREIGN_S
        if self._minute != (minute := int(now // 60)):
            self._minute, self._count = minute, 0
        self._count += 1
        return FOREIGN_DELAY_S + self._count // FOREIGN_STEP
