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
