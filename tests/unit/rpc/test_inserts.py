"""What an insert hands to the journal, and when it is answered."""

from __future__ import annotations

import asyncio
import json

import pytest

from kqs.errors import ERROR_CODES, CallError, JournalFailedError, NoSpaceError
from kqs.ids import Ids
from kqs.inserter import Found
from kqs.journal.format import Kind
from kqs.rpc import inserts
from kqs.rpc.conversation import Conversation
from kqs.rpc.slices import Slices
from kqs.wire.jobs import Given
from kqs.wire.steps import finish
from tests.support.conversing import Conversing, codes, put_off
from tests.support.turning import until

PLAIN = b'{"id":1,"n":"insert","m":{"type":"x","data":{"n":18446744073709551616}}}\n{"id":2,"n":"insert","m":{"type":"y"}}\n'
UNMADE = b"fffffffffffff-0000cafe"


async def test_plain_inserts_are_journaled_as_one_record_with_the_bytes_received() -> None:
    talk = Conversing()
    await talk.settled(PLAIN)
    (record,) = talk.backend.journal.records
    assert (record.kind, record.count, record.payload) == (Kind.CALLS, 2, PLAIN)


async def test_an_array_is_journaled_as_one_record_of_its_bytes() -> None:
    talk = Conversing()
    (answer,) = await talk.settled(b'{"id":1,"n":"insert","m":[{"type":"x"}, {"type":"y","id":"mine"}]}\n')
    (record,) = talk.backend.journal.records
    assert (record.kind, record.count, record.payload) == (Kind.JOBS, 2, b'[{"type":"x"}, {"type":"y","id":"mine"}]')
    assert answer["m"] == [talk.backend.ids.of(record.first_order), "mine"]


@pytest.mark.parametrize("text", [PLAIN, b'{"id":1,"n":"insert","m":[{"type":"x","delay":1}]}\n'])
async def test_what_is_journaled_says_when_it_was_accepted_by_the_clock_of_then(text: bytes) -> None:
    talk = Conversing()
    ahead = talk.backend.ids.take(1, 4e9)
    await talk.settled(text)
    (record,) = talk.backend.journal.records
    assert record.first_order == ahead + 1
    assert record.accepted_at == pytest.approx(talk.backend.inserter.now(), abs=3600)


async def test_the_answers_name_the_jobs_in_order() -> None:
    talk = Conversing()
    answers = await talk.settled(PLAIN)
    (record,) = talk.backend.journal.records
    ids = talk.backend.ids
    assert [answer["m"] for answer in answers] == [ids.of(record.first_order), ids.of(record.first_order + 1)]


async def test_nothing_is_answered_before_the_flush() -> None:
    talk = Conversing()
    talk.backend.journal.held = True
    assert talk.hear(PLAIN) == []
    talk.backend.journal.flush()
    assert [answer["id"] for answer in talk.answers()] == [1, 2]


async def test_an_answered_record_no_longer_holds_its_answer() -> None:
    talk = Conversing()
    await talk.settled(PLAIN)
    assert [record.done for record in talk.backend.journal.records] == [None]


async def test_a_given_id_is_answered_back() -> None:
    answers = await Conversing().settled(b'{"id":1,"n":"insert","m":{"type":"x","id":"a:1"}}\n' * 2)
    assert [answer["m"] for answer in answers] == ["a:1", "a:1"]


async def test_auth_never_reaches_the_journal() -> None:
    talk = Conversing()
    await talk.settled(b'{"id":1,"n":"insert","m":{"type":"x","auth":{"user":"me","pass":"secret"},"data":1}}\n')
    (record,) = talk.backend.journal.records
    assert record.payload == b'{"type":"x","data":1}'


async def test_one_bad_job_refuses_the_whole_array_and_is_named() -> None:
    talk = Conversing()
    (answer,) = await talk.settled(b'{"id":1,"n":"insert","m":[{"type":"x"},{"type":5}]}\n')
    assert answer["e"]["code"] == "bad_job"
    assert answer["e"]["message"].startswith("job 1: type")
    assert not talk.backend.journal.records


async def test_a_bad_job_does_not_fail_its_neighbours() -> None:
    talk = Conversing()
    answers = await talk.settled(PLAIN + b'{"id":3,"n":"insert","m":{"type":""}}\n' + PLAIN)
    assert sorted(codes(answers)) == ["bad_job", "ok", "ok", "ok", "ok"]
    assert sum(record.count for record in talk.backend.journal.records) == 4


@pytest.mark.parametrize("job", [b'{"type":"x","id":"%b"}' % UNMADE, b'[{"type":"x"},{"type":"x","id":"%b"}]' % UNMADE])
async def test_an_id_that_a_server_may_yet_make_is_refused(job: bytes) -> None:
    talk = Conversing()
    assert codes(await talk.settled(b'{"id":1,"n":"insert","m":%b}\n' % job)) == ["bad_job"]
    assert not talk.backend.journal.records


async def test_an_empty_array_is_answered_with_an_empty_one() -> None:
    (answer,) = await Conversing().settled(b'{"id":1,"n":"insert","m":[]}\n')
    assert answer["m"] == []


async def test_an_empty_array_is_not_answered_before_earlier_inserts_are_flushed() -> None:
    talk = Conversing()
    talk.backend.journal.held = True
    assert talk.hear(PLAIN, b'{"id":3,"n":"insert","m":[]}\n') == []
    talk.backend.journal.flush()
    assert [answer["id"] for answer in talk.answers()] == [1, 2, 3]
    assert talk.conversation.is_idle


@pytest.mark.parametrize("error", [NoSpaceError("/secret/path is full"), JournalFailedError("/secret/path: EIO")])
async def test_every_insert_is_told_why_the_journal_refused_and_no_path(error: NoSpaceError | JournalFailedError) -> None:
    talk = Conversing()
    talk.backend.journal.failure = error
    answers = await talk.settled(PLAIN, b'{"id":3,"n":"insert","m":[{"type":"x"}]}\n')
    assert codes(answers) == [error.code] * 3
    assert {answer["e"]["message"] for answer in answers} == {ERROR_CODES[error.code]}
    assert talk.backend.inserter.unflushed_bytes == 0


async def test_a_draining_server_refuses_inserts_and_answers_the_rest() -> None:
    talk = Conversing()
    talk.context.draining = True
    answers = await talk.settled(PLAIN, b'{"id":3,"n":"insert","m":[{"type":"x"}]}\n{"n":"ping"}\n')
    assert codes(answers) == ["draining"] * 3 + ["ok"]


async def test_binary_data_is_no_job() -> None:
    assert codes(Conversing().hear(b'{"id":1,"n":"insert","b":"aGVsbG8="}\n')) == ["bad_job"]


async def test_inserted_jobs_are_counted() -> None:
    talk = Conversing()
    await talk.settled(PLAIN, b'{"id":3,"n":"insert","m":[{"type":"x"},{"type":"x"},{"type":"x"}]}\n')
    assert talk.context.counters.jobs_inserted == 5
    assert talk.context.counters.calls == {"insert": 3}


async def test_an_id_that_another_server_may_yet_make_is_refused_but_adopted_from_a_dead_one() -> None:
    talk = Conversing()
    recent = Ids("ffffffff").of(int((talk.backend.inserter.now() - 60) * 1_000_000))
    job = b'{"type":"x","id":"%b"}' % recent.encode()
    answers = await talk.settled(*(b'{"id":1,"n":"%b","m":%b}\n' % (name, job) for name in (b"insert", b"adopt")))
    assert codes(answers) == ["bad_job", "ok"]
    assert answers[1]["m"] == recent
    assert [record.adopted for record in talk.backend.journal.records] == [True]


async def test_an_id_of_another_server_that_is_old_enough_is_a_clients_to_give() -> None:
    talk = Conversing()
    old = Ids("ffffffff").of(int((talk.backend.inserter.now() - 180) * 1_000_000))
    assert codes(await talk.settled(b'{"id":1,"n":"insert","m":{"type":"x","id":"%b"}}\n' % old.encode())) == ["ok"]


async def test_an_id_that_this_server_has_yet_to_make_is_not_even_adopted() -> None:
    assert codes(await Conversing().settled(b'{"id":1,"n":"adopt","m":[{"type":"x","id":"%b"}]}\n' % UNMADE)) == ["bad_job"]


def insert(**job: object) -> bytes:
    return json.dumps({"id": 1, "n": "insert", "m": {"type": "x"} | job}).encode() + b"\n"


def insert_all(*jobs: dict[str, object]) -> bytes:
    return json.dumps({"id": 1, "n": "insert", "m": [{"type": "x"} | job for job in jobs]}).encode() + b"\n"


async def test_a_full_answer_about_an_id_the_server_made_needs_no_store() -> None:
    talk = Conversing()
    talk.backend.verdicts.held = True
    (answer,) = await talk.settled(insert(answer="full"))
    (record,) = talk.backend.journal.records
    assert answer["m"] == {"id": talk.backend.ids.of(record.first_order), "created": True}


async def test_what_the_store_must_decide_is_answered_when_it_has() -> None:
    talk = Conversing()
    talk.backend.verdicts.held = True
    talk.hear(insert(unique="k") + insert(id="mine", answer="full") + insert())
    await asyncio.sleep(0)
    assert [answer["m"] for answer in talk.answers()] == [talk.backend.ids.of(talk.backend.journal.records[-1].first_order)]
    talk.backend.verdicts.found = lambda order: Found(frozenset([order]), {})
    talk.backend.verdicts.decide()
    first = talk.backend.ids.of(talk.backend.journal.records[0].first_order)
    assert [answer["m"] for answer in talk.answers()] == [first, {"id": "mine", "created": False}]
    assert talk.conversation.peer.in_flight == 0


async def test_each_job_of_an_array_is_answered_as_it_asks() -> None:
    talk = Conversing()
    talk.backend.verdicts.found = lambda order: Found(frozenset(), {order: "other"})
    refusing: dict[str, object] = {"unique": "k", "on_conflict": "refuse"}
    (answer,) = await talk.settled(
        insert_all({"id": "a"}, {"unique": "k"}, {"id": "b", "unique": "k", "answer": "full"}, refusing, {"answer": "full"})
    )
    message = "job 3: unique: a job of this type and key 'k' waits already, its id is 'other'"
    own = talk.backend.ids.of(talk.backend.journal.records[0].last_order)
    assert answer["m"] == [
        "a",
        "other",
        {"id": "other", "created": False},
        {"code": "duplicate", "message": message},
        {"id": own, "created": True},
    ]
    assert talk.backend.inserter.unflushed_bytes == 0


async def test_a_refused_job_is_an_error_and_not_counted() -> None:
    talk = Conversing()
    talk.backend.verdicts.found = lambda order: Found(frozenset(), {order: "other"})
    (answer,) = await talk.settled(insert(unique="k", on_conflict="refuse", answer="full"))
    assert answer["e"]["code"] == "duplicate"
    assert talk.context.counters.jobs_inserted == 0
    await talk.settled(insert(unique="k"))
    assert talk.context.counters.jobs_inserted == 1


@pytest.mark.parametrize("error", [NoSpaceError("full"), JournalFailedError("EIO")])
async def test_a_journal_that_refuses_leaves_no_question(error: NoSpaceError | JournalFailedError) -> None:
    talk = Conversing()
    talk.backend.journal.failure = error
    (answer,) = await talk.settled(insert(unique="k"))
    assert answer["e"]["code"] == error.code
    assert talk.backend.verdicts.asked == []
    assert talk.conversation.peer.in_flight == 0


async def test_too_many_questions_are_refused_before_anything_is_kept() -> None:
    talk = Conversing()
    talk.backend.verdicts.refusal = CallError("too many", "busy")
    answers = await talk.settled(insert(unique="k") + insert(answer="full"))
    assert codes(answers) == ["busy", "ok"]
    assert len(talk.backend.journal.records) == 1


async def test_what_asks_for_more_than_an_id_is_never_one_of_many_plain_lines() -> None:
    talk = Conversing()
    lines = insert(delay=1) + insert(delay=1, answer="full") + insert(delay=1)
    answers = await talk.settled(lines)
    assert [type(answer["m"]) for answer in answers] == [str, dict, str]
    assert [record.kind for record in talk.backend.journal.records] == [Kind.JOBS] * 3


@pytest.mark.parametrize(
    "call",
    [b'{"n":"insert","m":[%b]}\n', b'{"n":"batch","m":{"then":{"type":"x","unique":"k"},"jobs":[%b]}}\n'],
)
async def test_the_answers_to_many_jobs_are_made_in_slices(call: bytes) -> None:
    talk = Conversing()
    talk.context.slices = Slices(talk.context.supervisor)
    talk.backend.verdicts.held = True
    talk.hear(call % b",".join([b'{"type":"x","unique":"k"}'] * 2000))
    await until(lambda: bool(talk.backend.verdicts.flushed_first))
    talk.backend.verdicts.decide()
    assert talk.answers() == []
    await until(lambda: talk.conversation.is_idle)
    assert len(talk.answers()) == 1


async def test_the_ids_of_many_plain_jobs_are_told_in_steps_too() -> None:
    talk, count = Conversing(), 2500
    jobs = [b'{"type":"x"}'] * (count - 1)
    waiting = put_off(talk)
    talk.hear(b'{"id":1,"n":"insert","m":[%b,{"type":"x","id":"mine"}]}\n' % b",".join(jobs))
    finish(waiting.pop())  # it is decoded, and kept
    await until(lambda: bool(waiting))
    steps = 0
    while waiting:
        assert talk.answers() == []
        steps += sum(1 for _ in waiting.pop())
    (answer,) = talk.answers()
    (record,) = talk.backend.journal.records
    assert answer["m"] == [*talk.backend.ids.of_each(record.first_order, count - 1), "mine"]
    assert steps >= 6
    assert talk.context.counters.jobs_inserted == count


async def test_jobs_that_wait_for_what_they_name_are_bounded_over_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    def naming(number: int, size: int) -> bytes:
        return b'{"id":%d,"n":"insert","m":{"type":"x","after":["elsewhere"],"data":"%b"}}\n' % (number, b"x" * size)

    monkeypatch.setattr(inserts, "MAX_ORDERED_BYTES", 1000)
    talk, known = Conversing(), asyncio.Event()

    async def check(_given: Given) -> None:
        await known.wait()

    monkeypatch.setattr(talk.context.inserter, "check_order", check)
    other = Conversation(talk.context, 100_000, lambda at_once: None, str)
    other.receive_data(naming(1, 2000))  # one may be as long as a line
    while other.proceed():
        pass
    assert talk.hear(b'{"id":2,"n":"insert","m":{"type":"x"}}\n') == []
    batch = b'{"id":3,"n":"batch","m":{"jobs":[{"type":"x","after":["elsewhere"]}],"then":{"type":"x"}}}\n'
    answers = await talk.settled(naming(4, 0), batch)
    assert sorted((answer["id"], *codes([answer])) for answer in answers) == [(2, "ok"), (3, "busy"), (4, "busy")]
    known.set()
    await until(lambda: talk.context.ordered_bytes == 0)
    answers = await talk.settled(naming(5, 0), naming(6, 0))
    assert codes(answers) == ["ok", "ok"]
    assert talk.context.ordered_bytes == 0
