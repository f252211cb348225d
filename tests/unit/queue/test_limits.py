"""How many of a type may begin: the rules, against a model that remembers everything, on a clock that the test owns."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kqs.queue.gate import AHEAD_S, NO_LIMIT, TUNE_EVERY, TUNE_LAPS, Gate, Limit
from kqs.queue.limits import Limits, Reached

MAIL = "mail"


def nothing(_type: str) -> Iterable[tuple[int, int]]:
    return ()


class Timed:
    """Limits on a clock of their own, with what they told."""

    def __init__(self, limit: Limit, *, is_shared: bool = False) -> None:
        self.now = 100.0
        self.opened: list[str] = []
        self.dry_until: list[float] = []
        self.limits = Limits(lambda: self.now)
        self.limits.on_open = self.opened.extend
        self.limits.on_closed = self._closed
        self.set(limit, is_shared=is_shared)

    def set(self, limit: Limit, *, is_shared: bool = False) -> None:
        self.limits.set({MAIL: limit} if limit else {}, nothing, is_shared=is_shared)

    def _closed(self, _type: str, gate: Gate) -> None:
        if gate.is_dry and gate.bucket is not None:
            self.dry_until.append(gate.bucket.opens_at)

    def take(self, *orders: int) -> list[int]:
        """Claim what may be; return which."""
        return [order for order in orders if self.limits.take(MAIL, order, 1)]


def test_as_many_run_as_may_and_each_end_makes_room_for_one() -> None:
    timed = Timed(Limit(concurrency=2))
    assert timed.limits.left(MAIL) == 2
    assert timed.take(1, 2, 3) == [1, 2]
    assert timed.limits.closed == {MAIL}
    assert timed.limits.left(MAIL) == 0
    timed.limits.free(MAIL, 1, 1)
    assert timed.opened == [MAIL]
    assert timed.take(3, 4) == [3]


def test_the_least_of_several_limits_holds() -> None:
    assert Timed(Limit(concurrency=3, max_running=2)).take(1, 2, 3, 4) == [1, 2]
    assert Timed(Limit(concurrency=1, max_running=2)).take(1, 2, 3, 4) == [1]


def test_types_without_limits_are_not_counted() -> None:
    timed = Timed(Limit(concurrency=0))
    assert timed.limits.take("video", 1, 1)
    assert timed.limits.may_begin("video", 1, 1)
    assert timed.limits.left("video") == NO_LIMIT
    timed.limits.hold("video", 1, 1)
    timed.limits.free("video", 1, 1)
    assert list(timed.limits.gates) == [MAIL]


def test_a_slot_is_given_back_once_by_the_claim_that_has_it() -> None:
    timed = Timed(Limit(concurrency=1))
    timed.limits.hold(MAIL, 1, 2)
    timed.limits.free(MAIL, 1, 1)
    assert timed.take(2) == []
    timed.limits.free(MAIL, 1, 2)
    timed.limits.free(MAIL, 1, 2)
    assert timed.take(2, 3) == [2]


def test_a_job_that_has_a_slot_is_given_no_other() -> None:
    timed = Timed(Limit(concurrency=2))
    assert timed.take(1, 1) == [1]
    assert timed.limits.has(MAIL, 1)
    assert timed.limits.left(MAIL) == 1


def test_tokens_come_at_the_rate_and_none_at_first() -> None:
    timed = Timed(Limit(rate=10, per_s=5))
    assert timed.take(1) == []
    assert timed.dry_until[-1] == pytest.approx(100.5)
    timed.now = 100.49
    assert timed.limits.open_due() == pytest.approx(100.5)
    assert timed.take(1) == []
    timed.now = 100.5
    assert timed.limits.open_due() is None
    assert timed.opened == [MAIL]
    assert timed.take(1, 2) == [1]


def test_no_more_tokens_gather_than_a_second_brings() -> None:
    timed = Timed(Limit(rate=10, per_s=5))
    timed.now += 3600
    timed.limits.open_due()
    assert timed.take(1, 2, 3) == [1, 2]


def test_a_slow_rate_keeps_one_token() -> None:
    timed = Timed(Limit(rate=1, per_s=60))
    timed.now += 59
    assert timed.limits.open_due() == pytest.approx(160)
    timed.now += 3600
    timed.limits.open_due()
    assert timed.take(1, 2) == [1]


def test_a_fast_rate_opens_when_some_have_gathered() -> None:
    timed = Timed(Limit(rate=10_000))
    opens_at = timed.limits.open_due()
    assert opens_at == pytest.approx(100.01)
    timed.now = opens_at or 0.0
    timed.limits.open_due()
    assert len(timed.take(*range(200))) == 100


def test_a_claim_that_comes_to_nothing_gives_its_token_back() -> None:
    timed = Timed(Limit(rate=2, per_s=1))
    timed.now += 1
    timed.limits.open_due()
    assert timed.take(1, 2) == [1, 2]
    timed.limits.free(MAIL, 1, 1, is_unused=True)
    timed.limits.free(MAIL, 2, 1)
    timed.limits.open_due()
    assert timed.take(3, 4) == [3]


def test_a_granted_token_that_is_given_back_is_there_for_the_next() -> None:
    timed = Timed(Limit(rate=0.5), is_shared=True)
    timed.limits.bring(MAIL, 1)
    assert timed.take(1, 2) == [1]
    timed.limits.free(MAIL, 1, 1, is_unused=True)
    assert timed.opened == [MAIL, MAIL]
    assert timed.take(2, 3) == [2]
    timed.limits.free(MAIL, 2, 1)
    assert timed.take(3) == []


def test_granted_tokens_are_with_those_that_have_come_since_no_more_than_a_second_brings() -> None:
    timed = Timed(Limit(rate=100), is_shared=True)
    missed: list[str] = []
    timed.limits.on_missed = missed.append
    timed.limits.bring(MAIL, 100)
    timed.now += 0.4
    assert timed.limits.left(MAIL) == 60
    timed.now += 0.6
    assert timed.limits.left(MAIL) == 0
    assert (timed.limits.closed, missed) == ({MAIL}, [MAIL])
    timed.limits.bring(MAIL, 100)
    timed.now += 1
    assert timed.take(1) == []
    assert (timed.limits.closed, missed) == ({MAIL}, [MAIL, MAIL])


def test_a_granted_token_of_a_slow_rate_is_kept_until_the_next_has_come() -> None:
    timed = Timed(Limit(rate=0.5), is_shared=True)
    timed.limits.bring(MAIL, 1)
    timed.now += 1.9
    assert timed.limits.left(MAIL) == 1
    timed.now += 0.1
    assert timed.take(1) == []


def test_a_changed_rate_keeps_the_tokens_that_there_are() -> None:
    timed = Timed(Limit(rate=10))
    timed.now += 1
    timed.limits.open_due()
    timed.set(Limit(rate=4))
    assert timed.take(*range(9)) == [0, 1, 2, 3]
    timed.set(Limit(concurrency=5))
    assert timed.take(*range(10, 19)) == [10]


def test_what_runs_when_the_limit_comes_counts() -> None:
    timed = Timed(Limit(concurrency=9))
    timed.limits.set({"video": Limit(max_running=2)}, lambda type_: [(1, 1), (2, 3)] if type_ == "video" else [])
    assert timed.limits.closed == {"video"}
    timed.limits.free("video", 2, 3)
    assert timed.limits.take("video", 5, 1)
    assert MAIL not in timed.limits.gates


def test_what_was_claimed_before_the_limit_begins_while_there_is_a_slot() -> None:
    timed = Timed(Limit(concurrency=2))
    assert [timed.limits.may_begin(MAIL, order, 1) for order in (1, 2, 3)] == [True, True, False]
    assert timed.limits.may_begin(MAIL, 2, 1)


def test_what_was_to_begin_as_the_limit_sinks_leaves_its_slot_and_is_called_when_there_is_one() -> None:
    timed = Timed(Limit(concurrency=2))
    timed.take(1, 2)
    assert [timed.limits.may_begin(MAIL, order, 1) for order in (1, 2)] == [True, True]
    timed.set(Limit(concurrency=1))
    assert not timed.limits.may_begin(MAIL, 2, 1)
    called: list[str] = []
    timed.limits.on_slot = called.append
    timed.limits.await_slot(MAIL, True)
    timed.limits.free(MAIL, 1, 1)
    assert called == [MAIL]
    assert timed.limits.may_begin(MAIL, 2, 1)


def test_what_is_claimed_and_has_not_begun_goes_back_when_the_limit_sinks() -> None:
    timed = Timed(Limit(concurrency=4))
    timed.take(1, 2, 3, 4)
    timed.set(Limit(concurrency=2))
    assert [timed.limits.may_begin(MAIL, order, 1) for order in (1, 3, 2)] == [True, True, False]
    timed.limits.free(MAIL, 2, 1, is_unused=True)
    assert not timed.limits.may_begin(MAIL, 4, 1)
    timed.limits.free(MAIL, 1, 1)
    assert timed.limits.may_begin(MAIL, 4, 1)


def test_a_limit_that_rises_opens_and_one_that_goes_as_well() -> None:
    timed = Timed(Limit(max_running=0))
    timed.set(Limit(max_running=1))
    assert timed.opened == [MAIL]
    assert timed.take(1, 2) == [1]
    timed.set(Limit())
    assert timed.opened == [MAIL, MAIL]
    assert not timed.limits.gates
    assert not timed.limits.closed


def test_of_a_limit_over_all_servers_as_many_run_as_are_granted() -> None:
    timed = Timed(Limit(max_running=5), is_shared=True)
    assert timed.take(1) == []
    timed.limits.grant(MAIL, 2)
    assert timed.opened == [MAIL]
    assert timed.take(1, 2, 3) == [1, 2]
    assert timed.limits.reached(MAIL) == Reached("max_running", 5, 2)
    timed.limits.grant("video", 2)
    timed.set(Limit(concurrency=3), is_shared=True)
    timed.limits.grant(MAIL, 0)
    assert timed.take(3, 4) == [3]


@pytest.mark.parametrize(
    ("limit", "reached"),
    [
        (Limit(concurrency=1), Reached("concurrency", 1, 1)),
        (Limit(concurrency=2, max_running=1), Reached("max_running", 1, 1)),
        (Limit(concurrency=2, rate=0.5, per_s=2), Reached("rate", 0.5, 0, 104.0)),
        (Limit(concurrency=2), None),
    ],
)
def test_it_is_told_which_limit_is_reached(limit: Limit, reached: Reached | None) -> None:
    timed = Timed(limit)
    timed.take(1)
    assert timed.limits.reached(MAIL) == reached
    assert timed.limits.reached("video") is None


def test_of_a_limit_that_was_lowered_it_is_told_how_many_run_all_the_same() -> None:
    timed = Timed(Limit(max_running=3))
    for order in timed.take(1, 2, 3):
        assert timed.limits.may_begin(MAIL, order, 1)
    timed.set(Limit(max_running=1))
    assert timed.limits.reached(MAIL) == Reached("max_running", 1, 3)


def test_as_many_short_runs_are_claimed_as_get_through_in_a_while() -> None:
    timed = Timed(Limit(max_running=2))
    for order in range(TUNE_EVERY):
        assert timed.take(order) == [order]
        timed.now += AHEAD_S / 10
        timed.limits.free(MAIL, order, 1)
    assert timed.limits.left(MAIL) == 2 + 10
    timed.limits.get_stuck(MAIL)
    assert timed.limits.left(MAIL) == 2


def test_short_runs_of_a_few_slots_show_it_as_soon_as_each_has_had_some() -> None:
    timed = Timed(Limit(max_running=1))
    for order in range(TUNE_LAPS):
        assert timed.limits.left(MAIL) == 1
        assert timed.take(order) == [order]
        timed.now += AHEAD_S / 10
        timed.limits.free(MAIL, order, 1)
    assert timed.limits.left(MAIL) > 1


def test_a_type_that_is_granted_its_slots_has_no_place_without_one() -> None:
    timed = Timed(Limit(max_running=2), is_shared=True)
    timed.limits.grant(MAIL, 1)
    for order in range(TUNE_EVERY):
        assert timed.take(order) == [order]
        timed.limits.free(MAIL, order, 1)
    assert timed.limits.left(MAIL) == 1


class LimitsMachine(RuleBasedStateMachine):
    """The model counts what it was given, and when; the rules must never give more than the limits say at that time."""

    def __init__(self) -> None:
        super().__init__()
        self.timed = Timed(Limit())
        self.limit = Limit()
        self.running: dict[int, int] = {}  # order: attempt, of what is claimed
        self.begun: set[int] = set()
        self.elsewhere = 0
        self.taken_at: list[float] = []  # since the rate is as it is
        self.next_order = 0
        self.rate_since = 100.0
        self.kept = 0.0  # tokens that a change of the rate may have left

    @rule(
        limit=st.builds(
            Limit,
            st.none() | st.integers(0, 4),
            st.none() | st.integers(0, 4),
            st.none() | st.sampled_from([0.5, 1.0, 3.0, 1000.0]),
            st.sampled_from([0.5, 1.0, 10.0]),
        )
    )
    def change(self, limit: Limit) -> None:
        is_new_rate = (limit.rate, limit.per_s) != (self.limit.rate, self.limit.per_s)
        had_gate = bool(self.limit)
        had_rate = self.limit.rate is not None
        self.timed.limits.set({MAIL: limit} if limit else {}, lambda _type: list(self.running.items()))
        self.limit = limit
        if not had_gate:
            self.begun = set(self.running)
        if is_new_rate or not had_gate:
            self.taken_at.clear()
            self.rate_since = self.timed.now
            self.kept = self.burst if had_rate and had_gate else 0.0

    @property
    def burst(self) -> float:
        return 0.0 if self.limit.rate is None else max(1.0, self.limit.rate / self.limit.per_s)

    @property
    def most(self) -> int:
        bounds = [bound for bound in (self.limit.concurrency, self.limit.max_running) if bound is not None]
        return min(bounds, default=NO_LIMIT)

    @rule(count=st.integers(1, 5))
    def claim(self, count: int) -> None:
        for _ in range(count):
            self.next_order += 1
            before = len(self.running)
            if self.timed.limits.take(MAIL, self.next_order, 1):
                assert before < self.most_claimed
                self.running[self.next_order] = 1
                self.taken_at.append(self.timed.now)
            elif self.limit.rate is None:
                assert before >= self.most_claimed

    @property
    def most_claimed(self) -> int:
        gate = self.timed.limits.gates.get(MAIL)
        if gate is None:
            return NO_LIMIT
        assert gate.places_count == self.most or (gate.places_count > self.most > 0 and not self.elsewhere)
        return gate.places_count

    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        if self.running:
            order = data.draw(st.sampled_from(sorted(self.running)))
            has_one = order in self.begun
            is_free = len(self.begun) - has_one < self.most
            assert self.timed.limits.is_kept(MAIL, order, 1) == (is_free and bool(self.limit))
            assert self.timed.limits.may_begin(MAIL, order, 1) == is_free
            if is_free:
                self.begun.add(order)
            else:
                self.begun.discard(order)

    @rule(seconds=st.sampled_from([0.0, 0.01, 1.0, 100.0]))
    def short_ones_come_and_go(self, seconds: float) -> None:
        if self.limit.rate is None:
            for _ in range(TUNE_EVERY):
                self.next_order += 1
                if self.timed.limits.take(MAIL, self.next_order, 1):
                    self.timed.limits.free(MAIL, self.next_order, 1)
            self.timed.now += seconds

    @rule(change=st.sampled_from([1, -1]))
    def somebody_else_takes_them(self, change: int) -> None:
        if self.elsewhere + change >= 0:
            self.elsewhere += change
            self.timed.limits.take_elsewhere([MAIL], change)

    @rule()
    def they_get_stuck(self) -> None:
        self.timed.limits.get_stuck(MAIL)

    @rule(data=st.data(), is_unused=st.booleans())
    def end(self, data: st.DataObject, is_unused: bool) -> None:
        if self.running:
            order = data.draw(st.sampled_from(sorted(self.running)))
            self.begun.discard(order)
            self.timed.limits.free(MAIL, order, self.running.pop(order), is_unused=is_unused)
            if is_unused and self.taken_at:
                self.kept += 1  # its token may be taken again

    @rule()
    def end_of_a_stranger(self) -> None:
        self.timed.limits.free(MAIL, self.next_order + 1, 1)

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.1, 0.5, 3.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.timed.now += seconds
        self.timed.limits.open_due()

    @invariant()
    def no_more_begin_than_the_rate_allows(self) -> None:
        rate = self.limit.rate
        if rate is None:
            return
        # within every span that ends now: what a second brings, and what has come since
        for index, since in enumerate(self.taken_at):
            count = len(self.taken_at) - index
            assert count <= self.burst + self.kept + (self.timed.now - since) * rate / self.limit.per_s + 1e-3
        in_all = (self.timed.now - self.rate_since) * rate / self.limit.per_s
        assert len(self.taken_at) <= self.kept + in_all + 1e-3

    @invariant()
    def it_is_closed_just_when_nothing_is_left(self) -> None:
        limits = self.timed.limits
        if self.limit:
            assert (MAIL in limits.closed) == (limits.left(MAIL) == 0)
            assert set(limits.gates[MAIL].places) == set(self.running)
            assert limits.gates[MAIL].slots == self.begun
        else:
            assert not limits.closed

    @invariant()
    def it_opens_in_time(self) -> None:
        gate = self.timed.limits.gates.get(MAIL)
        if gate is not None and gate.is_dry:
            opens_at = self.timed.limits.open_due()
            assert opens_at is None or opens_at > self.timed.now


TestLimits = LimitsMachine.TestCase
TestLimits.settings = settings(max_examples=60, stateful_step_count=40)
