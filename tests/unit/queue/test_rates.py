import math

import pytest

from kqs.queue.limiting import Said
from tests.support.jobs import ORDER, an_accepted
from tests.support.queueing import Rig
from tests.support.remote import still


async def test_tokens_open_a_type_by_a_timer(rig: Rig) -> None:
    hand = rig.hand(10)
    await rig.queue.limiting.say("mail", Said(rate=2))
    await rig.accept(*(an_accepted(n) for n in range(5)))
    await still(rig)
    assert hand.runs.empty()
    reached = rig.queue.limiting.reached("mail")
    assert reached is not None
    assert reached.next_at == rig.clock.now() + 0.5
    rig.clock.advance(0.5)
    rig.queue.limiting.rates.look_again()
    assert (await hand.take()).claim.order == ORDER
    await still(rig)
    assert hand.runs.empty()
    rig.clock.advance(30)
    rig.queue.limiting.rates.look_again()
    await still(rig)
    assert [hand.runs.get_nowait().claim.order - ORDER for _ in range(hand.runs.qsize())] == [1, 2]


async def test_the_timer_rings_for_whatever_opens_first(rig: Rig) -> None:
    await rig.queue.limiting.say("mail", Said(rate=1, per_s=60))
    await rig.queue.limiting.say("video", Said(rate=1, per_s=6))
    await rig.queue.limiting.say("post", Said(rate=1, per_s=6000))
    assert rig.queue.limiting.rates.next_at == rig.clock.monotonic() + 6


@pytest.mark.parametrize("rate", [5e-324, 1e-310, 1e-300])
async def test_a_rate_that_brings_nothing_within_an_age_closes_its_type_and_no_server(rig: Rig, rate: float) -> None:
    await rig.queue.limiting.say("mail", Said(rate=rate, per_s=60))
    await rig.restart()
    reached = rig.queue.limiting.reached("mail")
    assert reached is not None
    assert reached.next_at is not None
    assert rig.clock.now() + 1e9 < reached.next_at < math.inf
