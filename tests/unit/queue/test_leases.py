import asyncio
import threading
import time

from kqs.options import Options
from kqs.queue.leases import LATE_S, SLOT_S, Lease, Leases
from kqs.service import SystemClock
from tests.support.clock import FakeClock
from tests.support.jobs import a_run


class Rig:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.lost: list[Lease] = []
        self.leases = Leases(self.clock, self.lost.append)

    def begin(self, number: int = 0, **options: object) -> Lease:
        lease = Lease(a_run(number), Options(**options), self.clock, lambda lease: None)  # type: ignore[arg-type]
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
    leases = Leases(clock, lambda lease: fired.set())
    leases.add(Lease(a_run(0), Options(ttr=1000), clock, lambda lease: None))
    leases.add(Lease(a_run(1), Options(ttr=0.1), clock, lambda lease: None))
    clock.advance(1)
    async with asyncio.timeout(10):
        await fired.wait()
    assert len(leases) == 1
    leases.close()


async def test_who_ended_in_time_is_heard_though_the_loop_was_held_up() -> None:
    loop, heard = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
    leases = Leases(SystemClock(), lambda lease: None)
    lease = Lease(a_run(0), Options(ttr=0.1), SystemClock(), lambda lease: None)
    leases.add(lease)
    reporter = threading.Thread(target=loop.call_soon_threadsafe, args=(lambda: heard.set_result(leases.end(lease)),))
    reporter.start()
    time.sleep(0.1 + 2 * SLOT_S + 2 * LATE_S)  # noqa: ASYNC251 - holding the loop up is the test
    assert await heard
    reporter.join()
    leases.close()
