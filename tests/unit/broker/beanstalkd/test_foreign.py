from __future__ import annotations

from structlog.testing import capture_logs

from kqs.broker.beanstalkd.body import Foreign
from kqs.broker.beanstalkd.foreign import FOREIGN_DELAY_S, FOREIGN_S, FOREIGN_STEP, Foreigners

MINUTE_S = 60.0


class Clock:
    now = 10 * MINUTE_S

    def __call__(self) -> float:
        return self.now


def test_they_are_a_problem_for_a_while_after_the_last_and_told_once() -> None:
    clock = Clock()
    foreigners = Foreigners("here:1", clock)
    assert foreigners.problem is None
    with capture_logs() as logs:
        foreigners.met(Foreign("mine", 5))
        clock.now += FOREIGN_S - 1
        foreigners.met(Foreign("yours", 5))
        clock.now += FOREIGN_S - 1
        assert "here:1 has jobs of another store, yours" in (foreigners.problem or "")
        clock.now += 1
        assert foreigners.problem is None
    assert [line["store"] for line in logs] == ["mine"]


def test_the_more_are_met_in_a_minute_the_longer_each_is_put_aside() -> None:
    clock = Clock()
    foreigners = Foreigners("here:1", clock)
    delays = [foreigners.met(Foreign("yours", 5)) for _ in range(2 * FOREIGN_STEP)]
    assert delays[0] == FOREIGN_DELAY_S
    assert delays[-1] == FOREIGN_DELAY_S + 2
    clock.now += MINUTE_S
    assert foreigners.met(Foreign("yours", 5)) == FOREIGN_DELAY_S
