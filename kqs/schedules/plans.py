"""What a schedule may say, and which calendar that is."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from kqs.config import ScheduleConfig
from kqs.errors import CallError, ExitCode, StartupError
from kqs.options import MAX_SECONDS, CatchUp, Overlap
from kqs.schedules.calendar import MAX_EVERY_S, MIN_EVERY_S, Calendar, Every, cron, zone_of
from kqs.store.ticks import NAME_RULE, Plan, Schedule
from kqs.wire.clean import at_seconds
from kqs.wire.replayed import replay_jobs
from kqs.wire.strict import shown

#: the longest job of a schedule, as JSON: those of all schedules are held in memory
MAX_JOB_BYTES = 16 * 1024

_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}\Z")


#: fields of an insert that a schedule's job cannot have: a tick sets them, or nobody waits for its answer
_NOT_OF_A_TICK = ("id", "at", "wait", "answer", "after", "after_any_end", "batch")


def plans_of(schedules: Mapping[str, ScheduleConfig]) -> dict[str, Plan]:
    """Return the schedules of a config. Raises: StartupError: one of them cannot be."""
    plans = {}
    for name, (section, job) in schedules.items():
        try:
            plans[name] = checked_plan(name, job=job, **msgspec.structs.asdict(section))
        except CallError as error:
            raise StartupError(f"[schedules.{name}] {error}", ExitCode.CONFIG) from None
    return plans


def checked_plan(
    name: str,
    job: str,
    cron: str | None,
    every: float | None,
    from_: float | str | None,
    tz: str,
    catch_up: CatchUp,
    overlap: Overlap,
) -> Plan:
    """Return what a schedule says; its job has been checked as an insert's is. Raises: CallError: it cannot be."""
    if len(job.encode()) > MAX_JOB_BYTES:
        raise CallError(f"job: expected at most {MAX_JOB_BYTES} bytes", "too_large")
    (fields,) = replay_jobs(job.encode())
    for field in _NOT_OF_A_TICK:
        if getattr(fields, field, None) is not None:
            raise CallError(f"{field}: a schedule's job has none", "bad_job")
    try:
        from_at = None if from_ is None else at_seconds(from_)
    except CallError:
        raise CallError(f"from: expected an RFC 3339 time with its zone, or Unix seconds, got {_got(from_)}") from None
    plan = Plan(job, cron, every, tz, from_at, catch_up, overlap)
    fault = _fault_of(name, plan)
    if fault is not None:
        raise CallError(fault)
    return plan


def calendar_of(schedule: Schedule) -> Calendar:
    """Return the instants of a schedule. Raises: ValueError: what it should say."""
    plan = schedule.plan
    if plan.cron is not None:
        return cron(plan.cron, plan.tz)
    assert plan.every is not None, "it has one of both"
    if plan.from_at is None:
        return Every(plan.every, schedule.created_at + plan.every)
    return Every(plan.every, plan.from_at)


def _fault_of(name: str, plan: Plan) -> str | None:
    """Return what is wrong with a schedule beside its job, as `field: what was expected`; None: nothing."""
    if not _NAME.match(name):
        return f"name: expected {NAME_RULE}, got {_got(name)}"
    if (plan.cron is None) == (plan.every is None):
        return f"cron, every: expected one of them, got {'none' if plan.cron is None else 'both'}"
    if plan.from_at is not None and plan.every is None:
        return "from: expected every beside it, which counts from there"
    if plan.every is not None and not MIN_EVERY_S <= plan.every <= MAX_EVERY_S:
        return f"every: expected a number of seconds from {MIN_EVERY_S:g} to {MAX_EVERY_S:.0f}, got {_got(plan.every)}"
    if plan.from_at is not None and not 0 <= plan.from_at <= MAX_SECONDS:
        return (
            f"from: expected an RFC 3339 time with its zone, or Unix seconds from 0 to {MAX_SECONDS}, got {_got(plan.from_at)}"
        )
    return _fault_of_calendar(plan)


def _fault_of_calendar(plan: Plan) -> str | None:
    if plan.cron is None:
        return None if plan.tz == "UTC" else "tz: expected cron beside it, which tells local times"
    try:
        zone_of(plan.tz)
    except ValueError as error:
        return f"tz: expected {error}, got {_got(plan.tz)}"
    try:
        cron(plan.cron, plan.tz)
    except ValueError as error:
        return f"cron: expected {error}, got {_got(plan.cron)}"
    return None


def _got(value: object) -> str:
    """Return what somebody gave, for a message."""
    return shown(msgspec.json.encode(value))
