"""What is left of the limits of one type: its places, slots and tokens (limits.py says what these are). Pure."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import NamedTuple

#: more than anything runs
NO_LIMIT = 2**62
#: tokens of so many s gather before a type opens again: what begins together costs less
GATHER_S = 0.01
#: short runs are claimed this far ahead, of the lanes (kqs.worker.ahead) and of slots: about two commits of the store
AHEAD_S = 0.02
#: runs claimed ahead that have not begun after so long, in s, are given back: those before them turned out to be long
STUCK_S = 0.1
#: how often is looked how long runs take, and how many get through, in runs
TUNE_EVERY = 64
#: and of a limited type, after so many for each place: a few places let through no more at each claim, which costs a flush
TUNE_LAPS = 4
#: these take no less, in s, so that no burst counts for more than a thousand ahead
LEAST_TUNE_S = 0.001
#: of a token, lost to rounding
_ROUNDING = 1e-6
#: tokens a second that come at least, one in 30,000 years: a rate and a time may be such that their quotient is 0
_LEAST_PER_SECOND = 1e-12


class Limit(NamedTuple):
    """What bounds a type; None: nothing. rate: jobs that begin in `per_s` seconds."""

    concurrency: int | None = None
    max_running: int | None = None
    rate: float | None = None
    per_s: float = 1.0

    def __bool__(self) -> bool:
        """Tell whether it bounds anything."""
        return self.concurrency is not None or self.max_running is not None or self.rate is not None


class Bucket:
    """Tokens: they come at a rate, as many as a second brings are kept (one at least), and at first there are none."""

    __slots__ = ("_at", "_level", "burst", "per_second")

    def __init__(self, per_second: float, now: float) -> None:
        self.per_second = per_second
        self.burst = max(1.0, per_second)
        self._level = 0.0
        self._at = now

    def left(self, now: float) -> int:
        """Return how many there are."""
        if now > self._at:
            self._level = min(self.burst, self._level + (now - self._at) * self.per_second)
            self._at = now
        return int(self._level + _ROUNDING)

    def add(self, count: int) -> None:
        """Give some back, or take them if it is negative; these must be there."""
        self._level = min(self.burst, max(0.0, self._level + count))

    def at_rate(self, per_second: float, now: float) -> Bucket:
        """Return it at another rate, with what it has."""
        other = type(self)(per_second, now)
        self.left(now)
        other.add(math.floor(self._level + _ROUNDING))
        return other

    def is_open(self, now: float) -> bool:
        """Tell whether there are enough again."""
        self.left(now)
        return self.opens_at <= now + _ROUNDING

    @property
    def opens_at(self) -> float:
        """Return when there are enough again."""
        wanted = max(1.0, min(self.burst, self.per_second * GATHER_S))
        return self._at + max(0.0, wanted - self._level) / self.per_second


class Granted(Bucket):
    """Tokens that somebody grants, as many as a second brings at most.

    Since the last grant others come there: what is kept here shrinks by as many, so both are no more than a second brings.
    """

    __slots__ = ("_granted_at",)

    def __init__(self, per_second: float, now: float) -> None:
        super().__init__(per_second, now)
        self._granted_at = now

    def grant(self, count: int, now: float) -> None:
        """Take in that so many were granted."""
        self.left(now)
        self._granted_at = now
        self.add(count)

    def left(self, now: float) -> int:
        """Return how many there are."""
        self._at = now
        come = math.floor((now - self._granted_at) * self.per_second)
        self._level = min(self._level, max(0.0, self.burst - come))
        return int(self._level + _ROUNDING)

    @property
    def opens_at(self) -> float:
        """Return when there are enough again: now, or nobody knows."""
        return self._at if self._level + _ROUNDING >= 1.0 else math.inf


class Gate:
    """The limits of one type.

    places: by the key of a job, the attempt that has one, or who is about to claim it. slots: the keys of those that have one.
    places_count: how many there may be. paid: with a token. is_awaited: a claimed run waits for a slot.
    """

    __slots__ = (
        "_ahead",
        "_is_alone",
        "_kind",
        "_over_count",
        "_tuned_at",
        "bucket",
        "cap",
        "is_awaited",
        "is_dry",
        "limit",
        "paid",
        "places",
        "places_count",
        "shared",
        "slots",
    )

    def __init__(self, limit: Limit, now: float, *, is_shared: bool = False, is_alone: bool = False) -> None:
        """Args: is_shared: slots and tokens over all servers are granted; `shared`: how many slots, None: all there are.

        is_alone: see `set_alone`.
        """
        self._kind = Granted if is_shared else Bucket
        self._is_alone = is_alone
        self._ahead = self._over_count = 0
        self._tuned_at = now
        self.places: dict[Hashable, object] = {}
        self.slots: set[Hashable] = set()
        self.is_awaited = False
        self.paid: set[Hashable] = set()
        self.bucket: Bucket | None = None
        self.is_dry = False
        self.shared: int | None = None
        self.limit = Limit()
        self.cap = self.places_count = NO_LIMIT
        self.set(limit, now)

    def set(self, limit: Limit, now: float) -> None:
        """Have other limits from now on."""
        self.limit = limit
        if limit.rate is None:
            self.bucket, self.is_dry = None, False
            self.paid.clear()
        else:
            per_second = max(_LEAST_PER_SECOND, limit.rate / limit.per_s)
            self.bucket = self._kind(per_second, now) if self.bucket is None else self.bucket.at_rate(per_second, now)
            self.is_dry = not self.bucket.left(now)
        is_granted = self._kind is Granted and limit.max_running is not None
        self.share(min(self.shared or 0, limit.max_running or 0) if is_granted else None)

    @property
    def wants_slots(self) -> bool:
        """Tell whether more slots might be granted, and none of those that were is left."""
        shared, limit = self.shared, self.limit
        if shared is None or len(self.places) < shared:
            return False
        return len(self.places) < min(limit.max_running or 0, NO_LIMIT if limit.concurrency is None else limit.concurrency)

    def share(self, shared: int | None) -> None:
        """Take in how many may run here of all that run on some server."""
        self.shared = shared
        most = self.limit.max_running
        over_all = NO_LIMIT if most is None else most if shared is None else shared
        self.cap = min(over_all, NO_LIMIT if self.limit.concurrency is None else self.limit.concurrency)
        self._count_places()

    def set_alone(self, is_alone: bool) -> None:
        """Take in whether all who take the type can let its claimed runs wait for a slot."""
        self._is_alone = is_alone
        self._count_places()

    def tune(self, now: float) -> bool:
        """Take in that one more run is over; tell whether there may be more places or fewer."""
        self._over_count += 1
        if self._over_count < TUNE_EVERY and self._over_count < TUNE_LAPS * self.places_count:
            return False
        took_s = max(now - self._tuned_at, LEAST_TUNE_S)
        self._reach(max(int(self._over_count * AHEAD_S / took_s), self._ahead // 2), now)
        return True

    def get_stuck(self, now: float) -> None:
        """Take in that claimed runs wait too long for a slot."""
        self._reach(0, now)

    def _reach(self, ahead: int, now: float) -> None:
        self._ahead, self._over_count, self._tuned_at = ahead, 0, now
        self._count_places()

    def _count_places(self) -> None:
        may_wait = self._is_alone and self.shared is None and self.cap > 0
        self.places_count = self.cap + self._ahead if may_wait else self.cap

    @property
    def is_closed(self) -> bool:
        """Tell whether nothing more may begin now."""
        return self.is_dry or len(self.places) >= self.places_count

    def left(self, now: float) -> int:
        """Return how many more may be claimed."""
        if self.is_dry:
            return 0
        places = max(0, self.places_count - len(self.places))
        return places if self.bucket is None else min(places, self.bucket.left(now))
