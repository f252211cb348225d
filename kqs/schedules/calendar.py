"""At which instants a schedule ticks: by a cron expression in a time zone, or every so many seconds. Instants are Unix seconds.

The expression is read by cronsim, and which days it means is asked of that. The instants are found here: a day's list of local
minutes becomes instants, in one way for the days on which the clocks stand still or go on evenly, which nearly all are, and in
another for those on which they are changed. There the rules are Debian's:

- An expression that fixes hour and minute means each of its times once a day. One that the change skips is the instant right
  after it, and one that comes twice the first of the two.
- One with a `*` or a step in its hour or minute follows real time: what is skipped is no instant, and what comes twice is two.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import groupby
from math import floor
from typing import Protocol, overload
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

MAX_CRON_CHARACTERS = 200
MAX_ZONE_CHARACTERS = 100
#: shortest and longest `every`, in s: a schedule is no source of load, and ten years hence is still a date
MIN_EVERY_S = 0.1
MAX_EVERY_S = 315_360_000.0

_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELDS = "minute, hour, day of month, month and day of week"
_NAME = re.compile(r"[A-Za-z0-9._+/-]*\Z")
#: a span of one, with a step, which cronsim reads as one to the end of the field: `5-5/10` as `5/10`
_STEPS_OF_ONE = re.compile(r"\b0*(\w+)-0*\1/0*[1-9][0-9]*\b")
_DAY = timedelta(days=1)
_MINUTE_S = 60
#: days ahead that are looked through for the next instant: 29 February on a given day of the week comes every 28 years, or 40
_MOST_DAYS = 366 * 41
#: the last day that has instants: those near the last date there is cannot be told in all zones
_LAST_DAY = date(date.max.year - 1, 12, 31)
#: an instant after that day in every zone, and far enough from the last date to be one there; later ones are taken for it
_END = datetime(date.max.year, 7, 1, tzinfo=UTC).timestamp()
_EPOCH = datetime(1970, 1, 1)


class Calendar(Protocol):
    """The instants of a schedule."""

    def after(self, at: float) -> float | None:
        """Return the first instant after `at`; None: there is none any more."""
        ...

    def count(self, after: float, until: float) -> int:
        """Return how many instants are after `after`, up to and including `until`."""
        ...

    def latest(self, after: float, until: float, most: int) -> list[float]:
        """Return the last of those instants, `most` at most, the oldest first."""
        ...


class Every:
    """Instants at equal distances from a first one, in whole milliseconds."""

    def __init__(self, every_s: float, from_at: float) -> None:
        """Args: from_at: the first instant there is."""
        self._every_s = every_s
        self._from_at = from_at

    def after(self, at: float) -> float | None:
        """See Calendar."""
        return self._instant(self._first(at))

    def count(self, after: float, until: float) -> int:
        """See Calendar."""
        return max(0, self._first(until) - self._first(after))

    def latest(self, after: float, until: float, most: int) -> list[float]:
        """See Calendar."""
        end = self._first(until)
        return [self._instant(number) for number in range(max(self._first(after), end - most), end)]

    def _instant(self, number: int) -> float:
        return round(self._from_at + number * self._every_s, 3)

    def _first(self, at: float) -> int:
        """Return the number of the first instant after `at`."""
        number = max(0, floor((at - self._from_at) / self._every_s))
        while number and self._instant(number - 1) > at:
            number -= 1
        while self._instant(number) <= at:
            number += 1
        return number


class Cron:
    """The instants of a cron expression. See the module docstring."""

    def __init__(self, expression: str, zone: ZoneInfo) -> None:
        """Raises: ValueError: what the expression should be."""
        fields = expression.upper().split()
        if len(fields) != 5:
            raise ValueError(f"five fields ({_FIELDS}), or one of {', '.join(_MACROS)}")
        try:
            parsed = CronSim(" ".join(_STEPS_OF_ONE.sub(r"\1", field) for field in fields), _EPOCH)
        except (CronSimError, ValueError, AssertionError) as error:
            raise ValueError(_wanted(error)) from None
        self._zone = zone
        self._months = parsed.months
        self._is_meant: Callable[[date], bool] = parsed.match_day
        self._minutes = sorted(60 * hour + minute for hour in parsed.hours for minute in parsed.minutes)
        self._is_fixed = not any(sign in field for field in fields[:2] for sign in "*/")
        self._changing: tuple[date, list[float]] | None = None
        if self.after(0.0) is None:
            raise ValueError("a day that there is")

    def after(self, at: float) -> float | None:
        """See Calendar."""
        today = self._date(at)
        for day in self._days_from(today if _even_midnight(self._zone, today) is not None else today - _DAY):
            instants = self._instants(day)
            index = bisect_right(instants, at)
            if index == len(instants):
                continue
            found, following = instants[index], day + _DAY
            if _even_midnight(self._zone, day) is None and self._has(following):
                # a change may cross midnight: then some of the next day come before some of this one
                instants = self._instants(following)
                index = bisect_right(instants, at)
                return found if index == len(instants) else min(found, instants[index])
            return found
        return None

    def count(self, after: float, until: float) -> int:
        """See Calendar."""
        total = 0
        first, last = self._date(after), self._date(until)
        for day in self._days_from(first - _DAY, (last - first).days + 2):
            if first < day < last and day not in _days_of_change(self._zone, day.year):
                total += len(self._minutes)
                continue
            instants = self._instants(day)
            total += max(0, bisect_right(instants, until) - bisect_right(instants, after))
        return total

    def latest(self, after: float, until: float, most: int) -> list[float]:
        """See Calendar."""
        found: set[float] = set()
        day, first = min(self._date(until) + _DAY, _LAST_DAY), self._date(after) - _DAY
        while day >= first:
            is_enough = len(found) >= most  # but for what a change lets cross midnight
            if self._has(day):
                instants = self._instants(day)
                found.update(instants[bisect_right(instants, after) : bisect_right(instants, until)])
            if is_enough:
                break
            day -= _DAY
        return sorted(found)[max(0, len(found) - most) :]

    def _date(self, at: float) -> date:
        return datetime.fromtimestamp(min(at, _END), self._zone).date()

    def _has(self, day: date) -> bool:
        return day.month in self._months and self._is_meant(day)

    def _days_from(self, day: date, most: int = _MOST_DAYS) -> Iterator[date]:
        """Yield the days that the expression means: of this one and `most` more, up to the last that has instants."""
        last = date.fromordinal(min(day.toordinal() + most, _LAST_DAY.toordinal()))
        while day <= last:
            if day.month not in self._months:
                day = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
                continue
            if self._is_meant(day):
                yield day
            day += _DAY

    def _instants(self, day: date) -> Sequence[float]:
        """Return the instants of a day that is meant, in order."""
        midnight = _even_midnight(self._zone, day)
        if midnight is not None:
            return _EvenDay(midnight, self._minutes)
        if self._changing is None or self._changing[0] != day:
            self._changing = (day, self._instants_of_change(day))
        return self._changing[1]

    def _instants_of_change(self, day: date) -> list[float]:
        found: set[float] = set()
        for hour, minutes in groupby(self._minutes, _hour_of):
            midnight = _midnight_of_even_hour(self._zone, day, hour)
            if midnight is not None:
                found.update(midnight + _MINUTE_S * minute for minute in minutes)
            else:
                found.update(*(self._instants_near_change(day, minute) for minute in minutes))
        return sorted(found)

    def _instants_near_change(self, day: date, minute: int) -> list[float]:
        local = datetime.combine(day, time(*divmod(minute, 60)), self._zone)
        instants = [one.timestamp() for one in (local, local.replace(fold=1))]
        is_there = [self._shows(instant, local) for instant in instants]
        if self._is_fixed:
            return [instants[0] if is_there[0] else self._end_of_gap(local)]
        return [instant for instant, shows in zip(instants, is_there, strict=True) if shows]

    def _shows(self, instant: float, local: datetime) -> bool:
        """Tell whether clocks show a local time at an instant."""
        return datetime.fromtimestamp(instant, self._zone).replace(tzinfo=None) == local.replace(tzinfo=None)

    def _end_of_gap(self, skipped: datetime) -> float:
        """Return the instant at which the clocks were put on over a local time."""
        naive = (skipped.replace(tzinfo=None) - _EPOCH).total_seconds()
        after = skipped.replace(fold=1).utcoffset()
        before = skipped.replace(fold=0).utcoffset()
        assert after is not None
        assert before is not None
        low, high = round(naive - after.total_seconds()), round(naive - before.total_seconds())
        while high - low > 1:  # before the change at `low`, after it at `high`
            middle = (low + high) // 2
            if datetime.fromtimestamp(middle, self._zone).utcoffset() == after:
                high = middle
            else:
                low = middle
        return float(high)


class _EvenDay(Sequence[float]):
    """The instants of a day without a change, at given minutes of it. Never a list: a year has half a million."""

    __slots__ = ("_midnight", "_minutes")

    def __init__(self, midnight: float, minutes: list[int]) -> None:
        self._midnight = midnight
        self._minutes = minutes

    def __len__(self) -> int:
        return len(self._minutes)

    @overload
    def __getitem__(self, index: int) -> float: ...

    @overload
    def __getitem__(self, index: slice) -> list[float]: ...

    def __getitem__(self, index: int | slice) -> float | list[float]:
        if isinstance(index, slice):
            return [self._midnight + _MINUTE_S * minute for minute in self._minutes[index]]
        return self._midnight + _MINUTE_S * self._minutes[index]


@lru_cache(maxsize=4096)
def _even_midnight(zone: ZoneInfo, day: date) -> float | None:
    """Return when a day begins; None: the clocks are changed on it, or at one of its ends."""
    noon = datetime.combine(day, time(12), zone).utcoffset()
    edges = [datetime.combine(edge, time(), zone) for edge in (day, day + _DAY)]
    if any(edge.replace(fold=fold).utcoffset() != noon for edge in edges for fold in (0, 1)):
        return None
    return edges[0].timestamp()


def _noon_offsets(zone: ZoneInfo, day: date) -> tuple[timedelta | None, timedelta | None]:
    """Return what local noon is ahead of UTC, before and after a change that skips it, with its day."""
    noon = datetime.combine(day, time(12), zone)
    return noon.utcoffset(), noon.replace(fold=1).utcoffset()


def _hour_of(minute: int) -> int:
    return minute // 60


def _midnight_of_even_hour(zone: ZoneInfo, day: date, hour: int) -> float | None:
    """Return when a day would have begun by the clocks of an hour of it; None: they are changed in it, or at one of its ends.

    To look at each minute of the day on which clocks are changed takes ten times as long.
    """
    begin = datetime.combine(day, time(hour), zone)
    offset = begin.utcoffset()
    assert offset is not None
    edges = (begin, begin + timedelta(hours=1))
    if any(edge.replace(fold=fold).utcoffset() != offset for edge in edges for fold in (0, 1)):
        return None
    return (datetime.combine(day, time()) - _EPOCH - offset).total_seconds()


@lru_cache(maxsize=4096)
def _days_of_change(zone: ZoneInfo, year: int) -> frozenset[date]:
    """Return the days of a year on which, or at an end of which, the clocks are changed.

    Most are told by the noons around them, since no clocks are changed there and back from one to the next: to look at each
    day by itself would have the loop for a quarter of a second, to count the ticks of ten years.
    """
    new_year = date(year, 1, 1)
    days = [new_year + number * _DAY for number in range((date(year + 1, 1, 1) - new_year).days)]
    noons = [_noon_offsets(zone, day) for day in (days[0] - _DAY, *days, days[-1] + _DAY)]
    around = zip(days, noons, noons[1:], noons[2:], strict=False)
    return frozenset(
        day for day, before, at, after in around if not before == at == after and _even_midnight(zone, day) is None
    )


def _wanted(error: Exception) -> str:
    """Return what an expression of five fields should be, by what cronsim says of one: `Bad minute`."""
    field = str(error).removeprefix("Bad ").replace("-", " ") if isinstance(error, CronSimError) else ""
    return (
        f"{'an' if field == 'hour' else 'a'} {field} that there is in the five fields ({_FIELDS})"
        if field
        else f"five fields ({_FIELDS})"
    )


@lru_cache(maxsize=1000)
def zone_of(name: str) -> ZoneInfo:
    """Return a time zone. Raises: ValueError: what its name should be."""
    if name and len(name) <= MAX_ZONE_CHARACTERS and _NAME.match(name):
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass
    raise ValueError("the name of a time zone of the IANA, as Europe/Berlin")


@lru_cache(maxsize=10_000)
def _cron(expression: str, zone_name: str) -> Cron:
    return Cron(_MACROS.get(expression.strip().lower(), expression), zone_of(zone_name))


def cron(expression: str, zone_name: str) -> Cron:
    """Return the calendar of an expression, or of a macro as `@daily`.

    Raises: ValueError: what the expression, or the zone, should be.
    """
    if len(expression) > MAX_CRON_CHARACTERS:
        raise ValueError(f"at most {MAX_CRON_CHARACTERS} characters")
    return _cron(expression, zone_name)
