import asyncio
import math
import sys
import threading
import time
import tracemalloc
from typing import Any

import msgspec
import pytest

from kqs.options import Options
from kqs.queue.leases import SLOT_S, SPARE_SLOTS, Lease, Leases, Leasing
from kqs.service import SystemClock
from tests.support.clock import FakeClock
from tests.support.jobs import a_run
from tests.support.supervising import StrictSupervisor


class Rig:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.lost: list[Lease] = []
        self.leases = Leases(self.clock, self.lost.append, StrictSupervisor())

    def begin(self, number: int = 0, /, **options: float) -> Lease:
        resolved = msgspec.structs.replace(Options(), **options)
        lease = Leasing(self.clock).lease(a_run(number), resolved, lambda lease: None)
        self.leases.add(lease)
        return lease

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.leases.check()


async def test_a_run_is_lost_when_its_ttr_is_over_and_not_before() -> None:
    rig = Rig()
    lease = rig.begin(ttr=5)
    rig.pass_time(4.9)
    assert rig.lost == []
    rig.pass_time(0.1 + 2 * SLOT_S)
    assert rig.lost == [lease]
    assert not rig.leases.end(lease)


async def test_a_touch_gives_another_ttr() -> None:
    rig = Rig()
    lease = rig.begin(ttr=5)
    rig.pass_time(4)
    assert lease.context.touch()
    rig.pass_time(4)
    assert rig.lost == []
    rig.pass_time(2)
    assert rig.lost == [lease]


@pytest.mark.parametrize("odd", ["now", None, object(), 10**400, math.nan])
async def test_what_a_handler_puts_in_place_of_a_touch_is_none(odd: Any) -> None:
    rig = Rig()
    lease = rig.begin(ttr=5)
    lease.context.touched_at = odd
    rig.pass_time(6)
    assert rig.lost == [lease]


async def test_a_touch_after_the_end_says_so() -> None:
    rig = Rig()
    lost, ended = rig.begin(0, ttr=5), rig.begin(1, ttr=50)
    rig.pass_time(6)
    assert rig.leases.end(ended)
    assert not lost.context.touch()
    assert not ended.context.touch()


async def test_a_time_limit_holds_however_often_the_run_is_touched() -> None:
    rig = Rig()
    lease = rig.begin(ttr=5, time_limit=8)
    for _ in range(4):
        rig.pass_time(2)
        lease.context.touch()
    rig.pass_time(1)
    assert rig.lost == [lease]


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e308, sys.float_info.max, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("option", ["ttr", "time_limit"])
async def test_no_number_of_seconds_is_too_strange(option: str, seconds: float) -> None:
    rig = Rig()
    lease = rig.begin(**{"auto_touch": option == "time_limit", option: seconds})
    rig.pass_time(2 * SLOT_S)
    assert rig.lost == ([lease] if seconds <= 0 else [])
    assert rig.leases.end(lease) is (seconds > 0 or math.isnan(seconds))


async def test_two_runs_of_one_job_are_two_leases() -> None:
    rig = Rig()
    first, second = rig.begin(7), rig.begin(7)
    assert rig.leases.end(first)
    assert len(rig.leases) == 1
    assert rig.leases.end(second)


async def test_a_run_over_its_limit_is_told_from_a_silent_one() -> None:
    rig = Rig()
    touched, silent = rig.begin(0, ttr=5, time_limit=8), rig.begin(1, ttr=5, time_limit=8)
    told: list[tuple[Lease, bool]] = []
    rig.leases._expired = lambda lease: told.append((lease, lease.is_over_limit(rig.clock.monotonic())))
    for _ in range(9):
        touched.context.touch()
        rig.pass_time(1)
    assert told == [(silent, False), (touched, True)]


async def test_runs_that_ended_take_no_memory_though_their_ttr_is_a_day() -> None:
    rig = Rig()
    running = [rig.begin(number, ttr=86_400) for number in range(10)]
    tracemalloc.start()
    try:
        for number in range(100_000):
            lease = rig.begin(number, ttr=86_400 + number % 3)
            rig.clock.advance(SLOT_S)
            if number % 7:
                assert rig.leases.end(lease)
            else:
                running[number % 10], lease = lease, running[number % 10]
                assert rig.leases.end(lease)
        taken_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(rig.leases) == len(running)
    assert taken_bytes < 100_000
    assert len(rig.leases._heap) <= 2 * (len(running) + 1) + SPARE_SLOTS
    rig.leases.close()


async def test_runs_that_go_on_are_found_lost_after_any_number_of_others() -> None:
    rig = Rig()
    kept = [rig.begin(number, ttr=500 + number) for number in range(5)]
    for number in range(1000):
        rig.leases.end(rig.begin(number, ttr=400 + number % 300))
        rig.pass_time(0.1)
    assert rig.lost == []
    rig.pass_time(500)
    assert sorted(rig.lost, key=id) == sorted(kept, key=id)


async def test_an_auto_touched_run_is_never_lost_while_this_process_lives() -> None:
    rig = Rig()
    lease = rig.begin(auto_touch=True)
    rig.pass_time(10**6)
    assert rig.lost == []
    assert len(rig.leases) == 1
    assert rig.leases.end(lease)
    assert len(rig.leases) == 0


async def test_an_ended_run_is_forgotten() -> None:
    rig = Rig()
    lease = rig.begin()
    assert rig.leases.end(lease)
    rig.pass_time(10**6)
    assert rig.lost == []


async def test_the_timer_fires_for_the_earliest_deadline() -> None:
    fired = asyncio.Event()
    clock = FakeClock()
    leases = Leases(clock, lambda lease: fired.set(), StrictSupervisor())
    leases.add(Leasing(clock).lease(a_run(0), Options(ttr=1000), lambda lease: None))
    leases.add(Leasing(clock).lease(a_run(1), Options(ttr=0.1), lambda lease: None))
    clock.advance(1)
    async with asyncio.timeout(10):
        await fired.wait()
    assert len(leases) == 1
    leases.close()


async def test_who_ended_in_time_is_heard_though_the_loop_was_held_up() -> None:
    loop, heard = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
    leases = Leases(SystemClock(), lambda lease: None, StrictSupervisor())
    lease = Leasing(SystemClock()).lease(a_run(0), Options(ttr=0.1), lambda lease: None)
    leases.add(lease)
    reporter = threading.Thread(target=loop.call_soon_threadsafe, args=(lambda: heard.set_result(leases.end(lease)),))
    reporter.start()
    time.sleep(0.1 + 12 * SLOT_S)  # noqa: ASYNC251 - holding the loop up is the test
    assert await heard
    reporter.join()
    leases.close()


async def test_who_ended_in_time_is_heard_though_much_else_came_while_the_loop_was_held_up() -> None:
    heard = asyncio.get_running_loop().create_future()
    leases = Leases(SystemClock(), lambda lease: None, StrictSupervisor())
    lease = Leasing(SystemClock()).lease(a_run(0), Options(ttr=0.1), lambda lease: None)
    leases.add(lease)
    time.sleep(0.1 + 30 * SLOT_S)  # noqa: ASYNC251 - holding the loop up is the test
    asyncio.get_running_loop().call_later(10 * SLOT_S, lambda: heard.set_result(leases.end(lease)))
    assert await heard
    leases.close()


async def test_who_was_touched_in_a_pause_that_ends_as_its_ttr_does_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kqs.queue.leases.BEAT_S", 5 * SLOT_S)
    loop, clock, lost = asyncio.get_running_loop(), SystemClock(), asyncio.Queue[Lease]()
    leases = Leases(clock, lost.put_nowait, StrictSupervisor())
    began_at = clock.monotonic()
    silent, touched = (Leasing(clock).lease(a_run(n), Options(ttr=0.6), lambda lease: None, began_at) for n in range(2))
    leases.add(silent)
    leases.add(touched)
    time.sleep(0.6 + SLOT_S - (clock.monotonic() - began_at))  # noqa: ASYNC251 - holding the loop up is the test
    loop.call_later(10 * SLOT_S, touched.context.touch)
    async with asyncio.timeout(10):
        assert await lost.get() is silent
    assert len(leases) == 1
    leases.close()
