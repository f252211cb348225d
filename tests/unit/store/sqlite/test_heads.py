"""What is known of the heads of lines, and when a claimed job leaves its line."""

from __future__ import annotations

from collections.abc import Mapping

from kqs.job import Accepted, Entry
from kqs.store.rotation import Terms, Turn
from kqs.store.sqlite import claim, groups, insert
from kqs.store.sqlite.heads import AHEAD, Heads
from kqs.store.sqlite.session import Session
from tests.support.sqlite_sessions import NOW


def a_job(order: int, group: str, prio: int = 1) -> Accepted:
    return Accepted(order, f"{order:013x}abcdef12", False, "mail", prio, 0.0, None, b"1", None, group=group)


def put(session: Session, *jobs: Accepted) -> None:
    insert.insert(session, jobs, 1, "w", NOW)


def an_entry(order: int, group: str) -> Entry:
    return Entry(order, f"{order:013x}abcdef12", "mail", 1, group=group)


def look(
    session: Session,
    turn: Turn = Turn(),  # noqa: B008 - it cannot be changed
    count: int = 1,
    weights: Mapping[str, int] = {},
) -> tuple[list[Entry], Turn]:
    while (found := groups.in_turn(session, "mail", turn, count, Terms(weights))) is None:
        pass
    return found.entries, found.turn


def in_line(session: Session) -> list[tuple[str, int]]:
    return session.db.execute("select name, job from line order by name, job").fetchall()


def test_claimed_jobs_leave_their_line_several_at_once(session: Session) -> None:
    put(session, *(a_job(order, "a") for order in range(1, 3 * AHEAD + 1)))
    lengths = list[int]()
    for order in range(1, 2 * AHEAD + 1):
        (entry,), _ = look(session)
        assert entry.order == order
        claim.claim(session, [entry], "w", NOW)
        lengths.append(len(in_line(session)))
    assert lengths == [3 * AHEAD] * AHEAD + [2 * AHEAD] * AHEAD


def test_all_of_a_group_leave_when_nobody_of_it_is_left(session: Session) -> None:
    put(session, a_job(1, "a"), a_job(2, "a"), a_job(3, "b"))
    entries, turn = look(session, count=9)
    claim.claim(session, entries, "w", NOW)
    assert [name for name, _ in in_line(session)] == ["a", "a", "b"]
    assert look(session, turn) == ([], turn)
    assert in_line(session) == []


def test_groups_that_there_is_no_room_for_have_their_turns(session: Session) -> None:
    session.heads = Heads(most=1)
    put(session, *(a_job(order, f"g{order % 5}") for order in range(1, 101)))
    turn, seen = Turn(), list[int]()
    for _ in range(100):
        (entry,), turn = look(session, turn)
        claim.claim(session, [entry], "w", NOW)
        seen.append(entry.order)
    by_turn = [[order for order in range(1, 101) if order % 5 == n] for n in range(5)]
    assert seen == [orders[at] for at in range(20) for orders in by_turn]
    assert look(session, turn)[0] == []
    assert in_line(session) == []


def test_a_look_goes_on_behind_groups_whose_jobs_have_all_gone(session: Session) -> None:
    session.heads = Heads(most=0)
    put(session, *(a_job(order, f"g{order}") for order in range(1, 10)))
    claim.claim(session, [an_entry(order, f"g{order}") for order in range(1, 9)], "w", NOW)
    entries, turn = look(session, Turn("g1", 1), weights={"g1": 4})
    assert ([entry.order for entry in entries], turn) == ([9], Turn("g9"))


def test_it_is_known_of_so_many_groups_and_no_more() -> None:
    heads = Heads(most=3)
    _, strange = heads.of("mail", ["a", "b", "c", "d"])
    assert strange == {"d"}
    heads.forget("mail", "a")
    assert heads.of("other", ["a", "b"])[1] == {"b"}


def test_groups_that_have_no_turns_make_room_in_the_end() -> None:
    heads = Heads(most=1)
    heads.of("mail", ["a"])
    assert not all(heads.of("mail", ["b"])[1] for _ in range(100))


def test_a_transaction_that_is_undone_leaves_nothing_known(session: Session) -> None:
    put(session, a_job(1, "a"), a_job(2, "a"))
    session.commit()
    session.begin(durable=False)
    entries, _ = look(session)
    claim.claim(session, entries, "w", NOW)
    session.rollback(ValueError("undone"))
    session.begin(durable=False)
    assert [entry.order for entry in look(session, count=9)[0]] == [1, 2]


def test_a_name_that_damage_has_changed_is_met_all_the_same(session: Session) -> None:
    put(session, a_job(1, "a"), a_job(2, "b"))
    session.db.execute("update line set name = cast(x'62ff' as text) where job = 2")
    entries, turn = look(session, count=9)
    assert [entry.order for entry in entries] == [1, 2]
    assert len(claim.claim(session, entries, "w", NOW)) == 2
    assert look(session, turn)[0] == []
