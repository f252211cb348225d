"""The calendar against a naive one that looks at every minute of a year, in four zones and over all their changes."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kqs.schedules import calendar
from kqs.schedules.calendar import Cron, Every, cron, zone_of

#: Lord Howe puts its clocks on by half an hour, Beirut at midnight, and back across it
ZONES = ["America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Beirut"]
BEGIN = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
MINUTES = 366 * 1440
RANGES = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)]


@cache
def local_minutes(zone: str) -> list[int]:
    """What clocks show at each minute of the year, as minutes since 1970; no zone has changed but on a half hour."""
    tz = ZoneInfo(zone)
    shown: list[int] = []
    for start in range(BEGIN // 60, BEGIN // 60 + MINUTES, 30):
        offset = datetime.fromtimestamp(start * 60, tz).utcoffset()
        assert offset is not None
        shown += range(start + int(offset.total_seconds()) // 60, start + int(offset.total_seconds()) // 60 + 30)
    return shown


@cache
def first_shown(zone: str) -> dict[int, int]:
    """The first minute of the year at which clocks show a local one."""
    found: dict[int, int] = {}
    for number, local in enumerate(local_minutes(zone)):
        found.setdefault(local, number)
    return found


def values(field: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for term in field.split(","):
        span, _, step = term.partition("/")
        first, _, last = ("*", "", "") if span == "*" else span.partition("-")
        start = low if first == "*" else int(first)
        end = high if first == "*" or (step and not last) else int(last or first)
        found.update(range(start, end + 1, int(step or 1)))
    return found


def oracle(expression: str, zone: str) -> list[float]:
    """All instants of the year, found by looking at each of its minutes, or at each day for a fixed time."""
    fields = expression.split()
    minutes, hours, days, months, weekdays = (values(f, *r) for f, r in zip(fields, RANGES, strict=True))

    def is_meant(day: date) -> bool:
        by_day, by_weekday = day.day in days, day.isoweekday() % 7 in weekdays
        is_and = fields[2].startswith("*") or fields[4].startswith("*")
        return day.month in months and (by_day and by_weekday if is_and else by_day or by_weekday)

    epoch = date(1970, 1, 1)
    shown = local_minutes(zone)
    meant = {number for number in range(shown[0] // 1440, shown[-1] // 1440 + 1) if is_meant(epoch + timedelta(number))}
    times = {60 * hour + minute for hour in hours for minute in minutes}
    if any(sign in field for field in fields[:2] for sign in "*/"):
        found = {number for number, local in enumerate(shown) if local % 1440 in times and local // 1440 in meant}
    else:
        first = first_shown(zone)
        found = set()
        for day in meant:
            for time in times:
                local = day * 1440 + time
                if local < shown[0] or local > shown[-1]:
                    continue
                while local not in first:  # skipped: the first minute after the gap
                    local += 1
                found.add(first[local])
    return [BEGIN + 60.0 * number for number in sorted(found)]


def lists(low: int, high: int) -> st.SearchStrategy[str]:
    some = st.lists(st.integers(low, high), min_size=1, max_size=3, unique=True).map(lambda ns: ",".join(map(str, sorted(ns))))
    spans = st.tuples(st.integers(low, high), st.integers(low, high)).map(lambda ns: f"{min(ns)}-{max(ns)}")
    steps = st.integers(2, max(2, high // 2)).map(lambda n: f"*/{n}")
    return st.one_of(some, spans, steps, st.just("*"))


#: hours around the changes, and days: those of 2026, and any
HOURS = st.one_of(st.sampled_from(["0", "1", "2", "3", "1,2", "2-3", "*", "*/2", "1-3/2"]), lists(0, 23))
EXPRESSIONS = st.tuples(
    st.one_of(st.sampled_from(["0", "30", "15,45", "*/15", "*"]), lists(0, 59)),
    HOURS,
    st.one_of(st.just("*"), lists(1, 31)),
    st.one_of(st.just("*"), lists(1, 12)),
    st.one_of(st.just("*"), lists(0, 6)),
).map(" ".join)
#: every change of these zones in 2026, in the order of ZONES
CHANGES = {
    "America/New_York": ["2026-03-08T07:00", "2026-11-01T06:00"],
    "Europe/Berlin": ["2026-03-29T01:00", "2026-10-25T01:00"],
    "Australia/Lord_Howe": ["2026-04-04T15:00", "2026-10-03T15:30"],
    "Asia/Beirut": ["2026-03-28T22:00", "2026-10-24T21:00"],
}


@settings(max_examples=60)
@given(EXPRESSIONS, st.sampled_from(ZONES), st.lists(st.floats(BEGIN, BEGIN + MINUTES * 60.0), min_size=4, max_size=4))
@example("30 1 * * *", "America/New_York", [])
@example("30 2 * * *", "America/New_York", [])
@example("15 2 * * *", "Australia/Lord_Howe", [])
@example("45 1 * * *", "Australia/Lord_Howe", [])
@example("*/10 1,2 * * *", "Australia/Lord_Howe", [])
@example("*/30 2 * * 0", "Europe/Berlin", [])
@example("0-59/20 2 * * *", "Europe/Berlin", [])
@example("*/30 0 * * *", "Asia/Beirut", [])
@example("30 23 * * *", "Asia/Beirut", [])
def test_a_year_is_as_a_naive_calendar_has_it(expression: str, zone: str, picked: list[float]) -> None:
    try:
        calendar = cron(expression, zone)
    except ValueError:  # a day that there never is
        assert not oracle(expression, zone)
        return
    expected = oracle(expression, zone)
    changes = [datetime.fromisoformat(f"{at}+00:00").timestamp() for at in CHANGES[zone]]
    around = [change + minutes * 60 + 0.5 for change in changes for minutes in range(-240, 241, 7)]
    last = BEGIN + MINUTES * 60 - 2 * 86400
    asked = sorted(at for at in [*picked, *around, *expected[:3]] if at < last)
    for at in asked:
        index = bisect_right(expected, at)
        if index < len(expected) and expected[index] < last:
            assert calendar.after(at) == expected[index]
    for after, until in itertools.pairwise(asked):
        between = expected[bisect_right(expected, after) : bisect_right(expected, until)]
        assert calendar.count(after, until) == len(between)
        assert calendar.latest(after, until, 5) == between[-5:]


def local(at: float | None, zone: str) -> str:
    assert at is not None
    return datetime.fromtimestamp(at, ZoneInfo(zone)).isoformat()


def after(expression: str, zone: str, at: str) -> str:
    return local(cron(expression, zone).after(datetime.fromisoformat(at).timestamp()), zone)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_all_instants_of_many_decades_are_counted(zone: str) -> None:
    begin, end = (datetime(year, 1, 1, 12, tzinfo=ZoneInfo(zone)).timestamp() for year in (1970, 2026))
    days = (date(2026, 1, 1) - date(1970, 1, 1)).days
    assert cron("0 3 * * *", zone).count(begin, end) == days


def test_a_fixed_time_that_is_skipped_is_right_after_the_gap_and_once_only() -> None:
    assert after("30 2 * * *", "America/New_York", "2026-03-08T01:59:59-05:00") == "2026-03-08T03:00:00-04:00"
    assert after("30 2 * * *", "America/New_York", "2026-03-08T03:00:00-04:00") == "2026-03-09T02:30:00-04:00"
    assert after("10,50 2 * * *", "America/New_York", "2026-03-08T03:00:00-04:00") == "2026-03-09T02:10:00-04:00"


def test_a_fixed_time_that_is_repeated_is_the_first_of_the_two() -> None:
    assert after("30 1 * * *", "America/New_York", "2026-11-01T00:00:00-04:00") == "2026-11-01T01:30:00-04:00"
    # in the second pass, whose wall time comes before
    assert after("30 1 * * *", "America/New_York", "2026-11-01T01:10:00-05:00") == "2026-11-02T01:30:00-05:00"


def test_a_star_or_a_step_follows_real_time() -> None:
    assert after("*/30 1 * * *", "America/New_York", "2026-11-01T01:30:00-04:00") == "2026-11-01T01:00:00-05:00"
    assert after("30 * * * *", "America/New_York", "2026-03-08T01:30:00-05:00") == "2026-03-08T03:30:00-04:00"
    assert after("*/30 2 * * *", "America/New_York", "2026-03-08T01:00:00-05:00") == "2026-03-09T02:00:00-04:00"


def test_a_change_may_cross_midnight_and_skip_a_day() -> None:
    assert after("30 12 * * *", "Pacific/Apia", "2011-12-29T20:00:00-10:00") == "2011-12-31T00:00:00+14:00"
    assert after("0 12 30 * *", "Pacific/Apia", "2011-12-31T00:00:00+14:00") == "2012-01-30T12:00:00+14:00"
    # clocks go on from 00:00 to 01:00, so the day has nothing of what is meant
    assert after("*/30 0 * * *", "Asia/Beirut", "2026-03-27T23:00:00+02:00") == "2026-03-28T00:00:00+02:00"
    assert after("*/30 0 * * *", "Asia/Beirut", "2026-03-28T00:30:00+02:00") == "2026-03-30T00:00:00+03:00"
    # clocks go back from 00:00 to 23:00 of the day before, which has that hour twice
    assert after("30 23 * * *", "America/Havana", "2026-11-01T00:00:00-04:00") == "2026-11-01T23:30:00-05:00"


def test_to_count_the_ticks_of_ten_years_only_what_is_near_changes_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: Counter[str] = Counter()

    def counting(name: str, look: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            looks[name] += 1
            return look(*args)

        return counted

    monkeypatch.setattr(calendar, "_even_midnight", counting("days", calendar._even_midnight))
    monkeypatch.setattr(Cron, "_shows", counting("minutes", Cron._shows))
    years_s = 3653 * 86400
    every_minute = Cron("* * * * *", ZoneInfo.no_cache("Europe/Berlin"))
    looks.clear()
    assert every_minute.count(BEGIN, BEGIN + years_s) == years_s / 60
    assert looks["days"] < 200
    assert looks["minutes"] < 20 * 6 * 60


def test_day_of_month_and_of_week_are_both_meant_where_either_begins_with_a_star() -> None:
    assert after("0 0 13 * 5", "UTC", "2026-11-01T00:00:00+00:00") == "2026-11-06T00:00:00+00:00"
    assert after("0 0 */2 * 5", "UTC", "2026-11-01T00:00:00+00:00") == "2026-11-13T00:00:00+00:00"
    assert after("0 0 13 * *", "UTC", "2026-11-01T00:00:00+00:00") == "2026-11-13T00:00:00+00:00"


@pytest.mark.parametrize(
    ("macro", "at"),
    [
        ("@hourly", "2026-11-29T02:00:00+00:00"),
        ("@daily", "2026-11-30T00:00:00+00:00"),
        ("@MIDNIGHT", "2026-11-30T00:00:00+00:00"),
        ("@weekly", "2026-12-06T00:00:00+00:00"),
        ("@monthly", "2026-12-01T00:00:00+00:00"),
        ("@yearly", "2027-01-01T00:00:00+00:00"),
        ("@annually", "2027-01-01T00:00:00+00:00"),
        ("0 12 L * *", "2026-11-30T12:00:00+00:00"),
        ("0 12 * * mon#1", "2026-12-07T12:00:00+00:00"),
        ("05-5/10 1-1/2 * * tue-tue/3", "2026-12-01T01:05:00+00:00"),
    ],
)
def test_macros_and_names_of_days_tick_when_cron_has_them(macro: str, at: str) -> None:
    assert after(macro, "UTC", "2026-11-29T01:30:00+00:00") == at


def test_a_span_of_one_is_no_more_for_its_step() -> None:
    assert after("0-0/15 * * * *", "UTC", "2026-11-29T01:00:00+00:00") == "2026-11-29T02:00:00+00:00"
    assert after("30 0 10-10/5,20 * *", "UTC", "2026-11-10T00:30:00+00:00") == "2026-11-20T00:30:00+00:00"
    with pytest.raises(ValueError):
        cron("5-5/0 * * * *", "UTC")


@pytest.mark.parametrize(
    "expression",
    [
        *("", "* * * *", "* * * * * *", "@reboot", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8"),
        *("0 0 30 2 *", "0 0 31 4,6 *", "*/0 * * * *", "5-1 * * * *", "a * * * *", "1,,2 * * * *", "L * * * *", "* * * * 1#6"),
        *("1 2 3 4 5/", "* * 5L/2 * *", "1/" + "9" * 180 + " * * *", "1 " * 200, "é * * * *", "0 0 31 2 mon#1,5#9"),
    ],
)
def test_what_is_no_expression_is_refused(expression: str) -> None:
    with pytest.raises(ValueError):
        cron(expression, "UTC")


@pytest.mark.parametrize(
    "zone", ["", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "Europe", "a" * 300, "Europe/Berl\x00in"]
)
def test_what_is_no_zone_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match="IANA"):
        zone_of(zone)


@settings(max_examples=200)
@given(st.floats(0.1, 1e6), st.floats(1.7e9, 1.9e9), st.floats(1.6e9, 2.0e9))
def test_every_counts_from_its_first_instant(every: float, from_at: float, at: float) -> None:
    calendar = Every(every, from_at)
    following = calendar.after(at)
    assert following is not None
    assert following > at
    assert following >= round(from_at, 3)
    assert following - max(at, from_at) <= every + 0.001
    number = round((following - from_at) / every)
    assert following == round(from_at + number * every, 3)
    further = calendar.after(following)
    assert further is not None
    assert calendar.count(at, further) == 2
    assert calendar.latest(at, further, 9) == [following, further]
    assert calendar.latest(at, further, 1) == [further]


def at_noon(year: int, month: int, day: int) -> float:
    return datetime(year, month, day, 12, tzinfo=UTC).timestamp()


#: the zones that are farthest from UTC, and one that changes its clocks
EDGES = pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Niue", "Europe/Berlin"])


@EDGES
@pytest.mark.parametrize("year", [9957, 9958, 9959, 9990, 9997])
def test_instants_are_found_up_to_the_end_of_the_calendar(year: int, zone: str) -> None:
    daily, now = cron("0 12 * * *", zone), at_noon(year, 12, 30)
    found = daily.after(now)
    assert found is not None
    assert 0 < found - now <= 86_400
    assert daily.count(now, found) == 1
    assert daily.latest(now, found, 9) == [found]


@EDGES
@pytest.mark.parametrize("expression", ["0 0 1 1 *", "0 0 29 2 */7", "* * * * *"])
@pytest.mark.parametrize(
    "at", [at_noon(9999, 1, 2), at_noon(9999, 12, 31), at_noon(9999, 12, 31) + 86_399, at_noon(9999, 12, 31) + 1e9]
)
def test_the_end_of_the_calendar_is_no_error(at: float, expression: str, zone: str) -> None:
    calendar = cron(expression, zone)
    assert calendar.after(at) is None
    assert calendar.count(at, at + 1e9) == 0
    assert calendar.latest(at, at + 1e9, 9) == []


@EDGES
def test_what_does_not_come_again_before_the_end_is_none(zone: str) -> None:
    leap_sunday = cron("0 0 29 2 */7", zone)
    last = leap_sunday.after(at_noon(9949, 1, 1))
    assert last is not None
    assert abs(last - at_noon(9976, 2, 29)) < 2 * 86_400
    assert leap_sunday.after(last) is None
