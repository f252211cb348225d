"""Whether a small operation is done on the loop."""

from __future__ import annotations

from kqs.store.sqlite.lone import AFTER_SLOW, FLUSH_S, FREE_SHARES, SLOW_S, Lone


def test_a_first_operation_is_done_on_the_loop() -> None:
    lone = Lone()
    assert lone.decide(0.0, durable=False)
    assert lone.decide(0.0, durable=True)


def test_a_slow_operation_sends_the_next_ones_to_the_thread() -> None:
    lone = Lone()
    lone.did(0.0, 2 * SLOW_S, durable=False)
    assert [lone.decide(1.0, durable=False) for _ in range(AFTER_SLOW + 1)] == [False] * AFTER_SLOW + [True]


def test_where_slow_ones_are_expected_durable_ones_go_to_the_thread_as_well() -> None:
    lone = Lone()
    lone.expect_slow()
    assert not lone.decide(0.0, durable=True)


def test_durable_ones_leave_the_loop_alone_for_longer_than_they_take() -> None:
    lone = Lone()
    lone.did(1.0, 1.0 + FLUSH_S / 2, durable=True)
    free_from = 1.0 + FLUSH_S / 2 * (1 + FREE_SHARES)
    assert not lone.decide(free_from - 1e-6, durable=True)
    assert lone.decide(free_from - 1e-6, durable=False)
    assert lone.decide(free_from + 1e-6, durable=True)


def test_on_a_slow_disk_durable_ones_go_to_the_thread_until_they_are_quick_there() -> None:
    lone = Lone()
    lone.did(0.0, 0.01, durable=True)
    assert not lone.decide(10.0, durable=True)
    assert lone.decide(10.0, durable=False)
    lone.observe(0.01)
    assert not lone.decide(20.0, durable=True)
    for _ in range(20):
        lone.observe(FLUSH_S / 10)
    assert lone.decide(30.0, durable=True)


def test_one_slow_flush_among_quick_ones_sends_few_to_the_thread() -> None:
    lone = Lone()
    for _ in range(20):
        lone.observe(FLUSH_S / 5)
    lone.did(0.0, 3 * FLUSH_S, durable=True)
    assert lone.decide(1.0, durable=True)
