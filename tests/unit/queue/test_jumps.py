import pytest

from kqs.queue.jumps import JumpWatch
from tests.support.clock import FakeClock


def test_only_a_clock_that_was_set_back_is_told() -> None:
    clock = FakeClock()
    watch = JumpWatch(clock)
    for steps, told in (((), 0.0), ((7200.0,), 0.0), ((-7200.0,), 7200.0), ((), 0.0), ((-0.5,), 0.0), ((5.0, -9.0), 4.0)):
        clock.advance(5)
        for step in steps:
            clock.jump(step)
        assert watch.back_s() == pytest.approx(told)


def test_a_clock_that_was_ahead_between_two_looks_is_told_by_what_it_has_shown() -> None:
    clock = FakeClock()
    watch = JumpWatch(clock)
    watch.note(clock.now() + 7200)
    clock.advance(5)
    assert watch.back_s() == pytest.approx(7200, abs=10)
    watch.note(clock.now() + 1)
    watch.note(clock.now() - 7200)
    assert watch.back_s() == 0.0
