from hypothesis import example, given
from hypothesis import strategies as st

from kqs.ids import MAX_CLOCK_ORDER, Ids, digits_of, microseconds


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(-1e18, 1e18)), min_size=1))
def test_orders_only_grow_whatever_the_clock_does(takes: list[tuple[int, float]]) -> None:
    ids, last = Ids("0123abcd"), -1
    for count, now in takes:
        first = ids.take(count, now)
        assert first > last
        last = first + count - 1
    assert ids.last_order == last


@given(st.floats(-1e300, 1e300))
def test_no_clock_takes_the_digits_of_the_ids_to_come(now: float) -> None:
    ids = Ids("0123abcd")
    first = ids.take(10**9, now)
    assert 0 < first <= MAX_CLOCK_ORDER
    assert ids.order_of(ids.of(ids.last_order + 10**14)) == ids.last_order + 10**14
    assert 1 <= microseconds(now) < 2**63


def test_orders_go_on_after_the_last_of_an_earlier_boot() -> None:
    assert Ids("0123abcd", last_order=2_000_000_000_000_000).take(1, 1_800_000_000.0) == 2_000_000_000_000_001


@given(st.lists(st.integers(10**15, 2**51), min_size=2, unique=True))
def test_sorting_ids_sorts_orders(orders: list[int]) -> None:
    ids = Ids("0123abcd")
    assert [ids.order_of(text) for text in sorted(map(ids.of, orders))] == sorted(orders)


@given(st.integers(0, 2**52 - 2000), st.integers(0, 1000))
@example(0xFFFE, 4)
@example(10**15 - 1, 0)
def test_ids_in_a_row_are_those_of_their_orders_one_by_one(first: int, count: int) -> None:
    ids = Ids("0123abcd")
    names = [ids.of(order) for order in range(first, first + count)]
    assert ids.of_each(first, count) == names
    assert [(head + tail).decode() + ids.suffix for head, tails in digits_of(first, count) for tail in tails] == names


def test_an_id_of_another_server_or_of_a_client_has_no_order() -> None:
    ids = Ids("0123abcd")
    assert ids.order_of(Ids("ffffffff").of(10**15)) is None
    assert ids.order_of("order-7") is None


def test_an_id_of_ours_that_is_not_made_yet_is_recognised() -> None:
    ids = Ids("0123abcd", last_order=10**15)
    for is_unmade in (ids.is_ours_unmade, lambda job_id: ids.may_be_unmade(job_id, 10**9)):
        assert is_unmade(ids.of(10**15 + 1))
        assert not is_unmade(ids.of(10**15))
        assert not is_unmade("order-7")


def test_an_id_that_a_server_with_a_slow_clock_may_have_yet_to_make_is_recognised() -> None:
    ids, theirs, now = Ids("0123abcd", last_order=10**15), Ids("ffffffff"), 1_800_000_000
    assert ids.may_be_unmade(theirs.of((now - 60) * 10**6), now)
    assert not ids.may_be_unmade(theirs.of((now - 121) * 10**6), now)
    assert not ids.is_ours_unmade(theirs.of((now + 60) * 10**6))


@given(st.floats(-60, 60), st.floats(0, 1e6), st.floats(-60, 60), st.integers(0, 2**50))
@example(60.0, 0.0, -60.0, 0)
def test_no_client_gives_an_id_that_a_server_within_a_minutes_skew_makes_later(
    our_skew_s: float, later_s: float, their_skew_s: float, their_last_order: int
) -> None:
    true_time = 1_800_000_000.0
    theirs = Ids("ffffffff", their_last_order)
    made = theirs.of(theirs.take(1, true_time + later_s + their_skew_s))
    assert Ids("0123abcd").may_be_unmade(made, true_time + our_skew_s)
