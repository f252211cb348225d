"""Who is given which new jobs; who takes a batch as a whole is told before they are made, as `admit` would say then."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from kqs.job import Accepted, Claim, Entry, Run
from kqs.queue.admission import Admission, Verdict
from kqs.queue.consumer import Consumer
from kqs.queue.gate import Limit

TYPES = ("mail", "resize", "sum")
SOME_TYPES = st.sets(st.sampled_from(TYPES))


def a_consumer(types: set[str], room: int, *, is_held: bool) -> Consumer:
    return Consumer("w", types, room, lambda _runs: None, is_remote=is_held, is_held=is_held)


CONSUMERS = st.builds(a_consumer, SOME_TYPES.filter(bool), st.integers(0, 6), is_held=st.booleans())


def a_job(order: int, type_: str, prio: int) -> Accepted:
    return Accepted(order, f"{order}", False, type_, prio, 0.0, None, b"null", None)


@given(
    consumers=st.lists(CONSUMERS, max_size=3),
    types=st.lists(st.sampled_from(TYPES), min_size=1, max_size=7),
    prios=st.lists(st.integers(0, 2), min_size=7, max_size=7),
    waiting=SOME_TYPES,
    suspended=SOME_TYPES,
    limited=st.sets(st.sampled_from(TYPES), max_size=1),
)
def test_who_is_the_taker_of_all_is_given_each_of_them_by_admit(
    consumers: Sequence[Consumer],
    types: Sequence[str],
    prios: Sequence[int],
    waiting: set[str],
    suspended: set[str],
    limited: set[str],
) -> None:
    admission = Admission(waiting.__contains__, {}, lambda: 0.0)
    for consumer in consumers:
        admission.enter(consumer)
    admission.suspend(dict.fromkeys(suspended, 1.0))
    admission.limit({type_: Limit(2) for type_ in limited}, lambda _type: ())
    jobs = [a_job(order, type_, prio) for order, (type_, prio) in enumerate(zip(types, prios, strict=False), 1)]
    taker = admission.taker_of_all(set(types), len(types))
    rooms = [consumer.room for consumer in consumers]
    reservation = admission.admit(jobs, 5.0, in_journal=True)
    taken = [room - consumer.room for room, consumer in zip(rooms, consumers, strict=True)]
    admitted = [(job.claimed_at, job.worker, job.held) for job in jobs]
    reservation.undo()
    if taker is None:
        assert not (len(consumers) == 1 and sum(taken) == len(jobs) and not limited), "one who takes all is told"
    else:
        assert taken == [len(jobs) if consumer is taker else 0 for consumer in consumers]
        claimed = admission.claim(taker, jobs, 5.0)
        assert [(job.claimed_at, job.worker, job.held) for job in jobs] == admitted
        assert sorted(claimed.orders) == sorted(reservation.orders)
        claimed.undo()
        assert [consumer.room for consumer in consumers] == rooms


def test_of_two_who_take_a_type_each_job_has_one() -> None:
    delivered: dict[str, list[int]] = {"one": [], "two": []}

    def takes(name: str, types: set[str], room: int) -> Consumer:
        return Consumer(name, types, room, lambda runs: delivered[name].extend(run.claim.order for run in runs))

    admission = Admission(set[str]().__contains__, {}, lambda: 0.0)
    admission.enter(takes("one", {"mail"}, 2))
    admission.enter(takes("two", {"mail", "resize"}, 100))
    jobs = [a_job(order, "resize" if order < 7 else "mail", 0) for order in range(1, 11)]
    admission.admit(jobs, 5.0).deliver(1)
    assert delivered == {"one": [7, 8], "two": [1, 2, 3, 4, 5, 6, 9, 10]}


def test_jobs_of_two_servers_that_have_the_same_order_take_a_place_each() -> None:
    admission = Admission(set[str]().__contains__, {}, lambda: 0.0)
    consumer = Consumer("w", {"mail"}, 9, lambda _runs: None)
    admission.enter(consumer)
    admission.limit({"mail": Limit(concurrency=2)}, lambda _type: ())
    entries, surplus = admission.fit(consumer, [Entry(1, id_, "mail", 0) for id_ in ("ours", "theirs", "third")])
    assert ([entry.id for entry in entries], len(surplus)) == (["ours", "theirs"], 1)
    runs = [Run(Claim(1, entry.id, 1, 1), "mail", 0, b"null", None) for entry in entries]
    admission.settle(entries, runs)
    assert [admission.verdict(run, 0.0) for run in runs] == [Verdict.RUN, Verdict.RUN]
    assert admission.limits.left("mail") == 0
    admission.over(runs[0], has_begun=True)
    assert admission.limits.left("mail") == 1
    admission.over(runs[1], has_begun=True)
    assert admission.limits.left("mail") == 2


@given(
    consumers=st.lists(CONSUMERS, max_size=3),
    types=st.lists(st.sampled_from(TYPES), max_size=7),
    prios=st.lists(st.integers(0, 2), min_size=7, max_size=7),
    claimed=st.sets(st.integers(1, 7)),
    limited=st.sets(st.sampled_from(TYPES), max_size=1),
    in_journal=st.booleans(),
)
def test_no_job_is_claimed_twice_and_no_more_than_there_is_room(
    consumers: Sequence[Consumer],
    types: Sequence[str],
    prios: Sequence[int],
    claimed: set[int],
    limited: set[str],
    in_journal: bool,
) -> None:
    admission = Admission(set[str]().__contains__, {}, lambda: 0.0)
    for consumer in consumers:
        admission.enter(consumer)
    admission.limit({type_: Limit(2) for type_ in limited}, lambda _type: ())
    jobs = [a_job(order, type_, prio) for order, (type_, prio) in enumerate(zip(types, prios, strict=False), 1)]
    for job in jobs:
        job.claimed_at = 1.0 if job.order in claimed else 0.0
    rooms = sum(consumer.room for consumer in consumers)
    orders = admission.admit(jobs, 5.0, in_journal=in_journal).orders
    assert len(orders) == len(set(orders) - claimed)
    assert all(consumer.room >= 0 for consumer in consumers)
    assert rooms - sum(consumer.room for consumer in consumers) == len(orders)
