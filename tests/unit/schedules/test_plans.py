from __future__ import annotations

import re

import msgspec
import pytest

from kqs.config import ScheduleConfig, ScheduleSection
from kqs.errors import ExitCode, StartupError
from kqs.schedules.plans import plans_of
from kqs.store.ticks import Plan


def a_config(job: str = '{"type":"a"}', **section: float | str) -> ScheduleConfig:
    return ScheduleConfig(msgspec.structs.replace(ScheduleSection(), **section), job)


def test_config_says_what_a_call_does() -> None:
    assert plans_of({"a": a_config(cron="@daily", tz="Europe/Berlin"), "b": a_config(every=5.0, from_=10.0)}) == {
        "a": Plan('{"type":"a"}', cron="@daily", tz="Europe/Berlin"),
        "b": Plan('{"type":"a"}', every=5.0, from_at=10.0),
    }


@pytest.mark.parametrize(
    ("name", "one", "message"),
    [
        ("x", a_config(), "[schedules.x] cron, every: expected one of them, got none"),
        ("x", a_config(every=0.0), "[schedules.x] every: expected a number of seconds from 0.1"),
        ("x", a_config(cron="61 * * * *"), "[schedules.x] cron: expected a minute that there is"),
        (
            "x",
            a_config(cron="1 2 3"),
            "[schedules.x] cron: expected five fields (minute, hour, day of month, month and day of week),",
        ),
        (
            "x",
            a_config(cron="@daily", tz="Nowhere"),
            '[schedules.x] tz: expected the name of a time zone of the IANA, as Europe/Berlin, got "Nowhere"',
        ),
        ("x y", a_config(every=5.0), "[schedules.x y] name: expected 1 to 100"),
        ("x", a_config('{"type":"a","id":"b"}', every=5.0), "[schedules.x] id: a schedule's job has none"),
    ],
)
def test_what_cannot_be_ends_the_start(name: str, one: ScheduleConfig, message: str) -> None:
    with pytest.raises(StartupError, match=re.escape(message)) as refused:
        plans_of({name: one})
    assert refused.value.exit_code is ExitCode.CONFIG
