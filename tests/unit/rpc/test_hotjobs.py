"""Calls that wait for a job to end, over a backend in memory: what they are answered, once, whatever happens."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from kqs.errors import JournalFailedError
from kqs.job import JobRecord
from kqs.options import PlainJob
from kqs.rpc import context as contexts
from kqs.rpc import standing
from kqs.states import State
from tests.support.conversing import Conversing, codes

HOT = b'{"id":1,"n":"insert","m":{"type":"x","id":"mine","wait":5}}\n'


def ended(state: State = State.SUCCESS, result: bytes | None = b"7", error: str | None = None) -> JobRecord:
    return JobRecord(1, "mine", "x", state, 0, 0.0, None, None, None, 1, 0, 0, 0, 1.0, 2.0, None, result, error, [])


async def heard(talk: Conversing, *pieces: bytes) -> list[dict[str, Any]]:
    """What is answered before the job has ended."""
    answers = talk.hear(*pieces)
    while talk.conversation.peer.in_flight:
        await asyncio.sleep(0)
        talk.proceed()
        answers += talk.answers()
    return answers


def tell(talk: Conversing, end: Any, job_id: str = "mine", *, alone: bool = True) -> list[dict[str, Any]]:
    for told in talk.backend.waiting.pop(job_id, ()):
        told(end, alone)
    return talk.answers()


async def test_an_insert_that_waits_is_answered_with_the_id_and_then_with_the_end() -> None:
    talk = Conversing()
    assert await heard(talk, HOT) == [{"v": 1, "id": 1, "e": None, "s": "ok", "m": "mine"}]
    assert not talk.conversation.is_idle
    result = {"id": "mine", "state": "success", "result": 7}
    assert tell(talk, ended()) == [{"v": 1, "id": 1, "e": None, "s": "end", "m": result}]
    assert talk.conversation.is_idle
    assert talk.context.waits == 0


@pytest.mark.parametrize(
    ("end", "code", "message"),
    [
        (ended(State.FAIL, None, "no such image"), "job_failed", "no such image"),
        (ended(State.FAIL, None, None), "job_failed", "failed"),
        (ended(State.CANCELLED, None, None), "cancelled", "the job was cancelled by its owner"),
        ("deleted", "deleted", "the job was deleted before it ended"),
    ],
)
async def test_an_end_that_is_no_success_is_an_error(end: Any, code: str, message: str) -> None:
    talk = Conversing()
    await heard(talk, HOT)
    (answer,) = tell(talk, end)
    assert (answer["s"], answer["e"]["code"], answer["e"]["message"]) == ("err", code, message)


async def test_a_job_without_a_result_has_null() -> None:
    talk = Conversing()
    await heard(talk, HOT)
    (answer,) = tell(talk, ended(result=None))
    assert answer["m"]["result"] is None


async def test_an_end_that_comes_before_the_flush_is_told_after_the_id() -> None:
    talk = Conversing()
    talk.backend.journal.held = True
    assert talk.hear(HOT) == []
    assert tell(talk, ended()) == []
    talk.backend.journal.flush()
    assert [answer["s"] for answer in talk.answers()] == ["ok", "end"]


@pytest.mark.parametrize("job", [b'{"type":"x","wait":5}', b'{"type":"x","wait":5,"prio":1}'])
async def test_an_end_under_an_id_that_was_made_here_is_told_with_that_as_it_comes(job: bytes) -> None:
    talk = Conversing()
    talk.backend.journal.held = True
    assert talk.hear(b'{"id":1,"n":"insert","m":%b}\n' % job) == []
    (job_id,) = talk.backend.waiting
    told = tell(talk, ended(), job_id)
    assert [(answer["s"], answer["m"]) for answer in told] == [("ok", job_id), ("end", told[1]["m"])]
    talk.backend.journal.flush()  # was told of already
    assert talk.answers() == []
    assert (talk.context.waits, talk.context.counters.jobs_inserted) == (0, 1)
    assert talk.conversation.is_idle


async def test_what_waits_for_its_end_keeps_nothing_of_its_insert() -> None:
    talk = Conversing()
    await heard(talk, b'{"id":1,"n":"insert","m":{"type":"x","wait":5}}\n')
    record = talk.backend.journal.records.pop()
    assert talk.context.waits == 1
    assert sys.getrefcount(record) == 2  # here, and as the argument


async def test_a_failed_flush_is_the_only_answer() -> None:
    talk = Conversing()
    talk.backend.journal.failure = JournalFailedError("broken")
    (answer,) = await heard(talk, HOT)
    assert answer["e"]["code"] == "journal_failed"
    assert tell(talk, ended()) == []
    assert talk.context.waits == 0


async def test_the_time_that_is_over_is_an_error_and_nothing_is_told_afterwards() -> None:
    talk = Conversing()
    await heard(talk, HOT.replace(b"5", b"0.01"))
    (answer,) = await talk.settled()
    assert answer["e"]["code"] == "timeout"
    assert talk.backend.waiting["mine"] == []


async def test_nothing_waits_with_zero_in_an_array_or_unheard() -> None:
    talk = Conversing()
    talk.backend.has_waits, talk.backend.waits_s = True, {"hot": 5.0}
    pieces = [
        b'{"id":1,"n":"insert","m":{"type":"x","id":"a","wait":0}}\n',
        b'{"id":2,"n":"insert","m":[{"type":"hot","id":"b"}]}\n',
        b'{"id":3,"n":"insert","m":{"type":"cold","id":"c"}}\n',
        b'{"id":4,"n":"adopt","m":{"type":"hot","id":"d","wait":5}}\n',
        b'{"id":5,"n":"insert","m":{"type":"hot","id":"e","wait":0}}\n',
        b'{"jsonrpc":"2.0","method":"insert","params":{"type":"hot","id":"f","wait":5}}\n',
    ]
    answers = await talk.settled(*pieces)
    assert [answer["m"] for answer in answers] == ["a", ["b"], "c", "d", "e"]
    assert talk.backend.waiting == {}


async def test_a_job_that_is_plain_but_for_its_wait_is_kept_as_a_plain_one_whatever_was_asked_before() -> None:
    talk = Conversing()
    line = b'{"id":1,"n":"insert","m":{"type":"x","wait":5}}\n'
    await heard(talk, b'{"id":1,"n":"insert","m":{"type":"x"}}\n', b'{"n":"ping"}\n')
    for _ in range(2):  # the first is taken for any call, as the last one was
        (answer,) = await heard(talk, line)
        assert answer["s"] == "ok"
        (answer,) = tell(talk, ended(), answer["m"])
        assert answer["s"] == "end"
    record = talk.backend.journal.records[-1]
    assert (record.payload, record.jobs) == (line, [PlainJob("x")])
    assert talk.context.waits == 0
    assert talk.context.counters.jobs_inserted == 3


async def test_a_plain_job_that_may_not_wait_is_refused_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "MAX_WAITS", 0)
    talk = Conversing()
    await heard(talk, b'{"id":1,"n":"insert","m":{"type":"x"}}\n')
    (refused,) = await heard(talk, b'{"id":1,"n":"insert","m":{"type":"x","wait":5}}\n')
    assert refused["e"]["code"] == "busy"
    assert len(talk.backend.journal.records) == 1
    assert talk.conversation.is_idle


async def test_a_type_waits_by_default() -> None:
    talk = Conversing()
    talk.backend.has_waits, talk.backend.waits_s = True, {"hot": 5.0}
    (answer,) = await heard(talk, b'{"id":1,"n":"insert","m":{"type":"hot","id":"mine"}}\n')
    assert answer["s"] == "ok"
    assert [answer["s"] for answer in tell(talk, ended())] == ["end"]


async def test_calls_that_wait_are_not_in_flight_and_have_a_bound_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "MAX_WAITS", 3)
    talk = Conversing(max_in_flight=2)
    line = b'{"id":%d,"n":"insert","m":{"type":"x","id":"mine","wait":5}}\n'
    for number in range(3):
        assert codes(await heard(talk, line % number)) == ["ok"]
    (refused,) = await heard(talk, line % 9)
    assert refused["e"]["code"] == "busy"
    assert len(talk.backend.journal.records) == 3  # it was not kept
    assert len(tell(talk, ended(), alone=False)) == 3


async def test_all_connections_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kqs.rpc.hotjobs.MAX_WAITS_IN_ALL", 1)
    assert contexts.MAX_WAITS_IN_ALL >= standing.MAX_WAITS
    talk = Conversing()
    assert codes(await heard(talk, HOT, HOT)) == ["busy", "ok"]


async def test_a_peer_that_is_gone_costs_nothing() -> None:
    talk = Conversing()
    await heard(talk, HOT, HOT.replace(b'"id":1', b'"id":2'))
    talk.conversation.forget()
    assert talk.backend.waiting["mine"] == []
    assert talk.context.waits == 0


async def test_the_end_of_a_job_is_written_at_once_if_it_is_the_only_one() -> None:
    talk = Conversing()
    await heard(talk, HOT)
    tell(talk, ended(), alone=True)
    await heard(talk, HOT)
    tell(talk, ended(), alone=False)
    assert talk.in_haste == [False, True, False, False]


LONG = b'"' + b"x" * 20_000 + b'"'


async def test_a_long_end_is_told_to_one_after_the_other_each_in_a_step_of_its_own() -> None:
    talk = Conversing()
    await heard(talk, HOT, HOT, HOT)
    assert tell(talk, ended(result=LONG)) == []
    in_steps = []
    while talk.context.waits:
        await asyncio.sleep(0)
        in_steps.append(len(talk.answers()))
    assert [count for count in in_steps if count] == [1, 1, 1]
    assert talk.conversation.is_idle
    await heard(talk, HOT)
    tell(talk, ended(result=LONG))
    assert len(await talk.settled()) == 1


async def test_a_long_end_waits_for_room_and_nothing_else_is_told_instead() -> None:
    talk = Conversing()
    await heard(talk, HOT.replace(b'"wait":5', b'"wait":0.001'), HOT)
    talk.context.answers.room.clear()
    tell(talk, ended(result=LONG))
    talk.conversation.peer.standing.refuse_waits("draining", "the server is stopping")
    await asyncio.sleep(0.01)
    assert talk.answers() == []
    talk.context.answers.room.set()
    answers = await talk.settled()
    assert [answer["m"]["state"] for answer in answers] == ["success", "success"]


async def test_who_is_gone_before_a_long_end_is_told_costs_nothing() -> None:
    talk = Conversing()
    await heard(talk, HOT)
    talk.context.answers.room.clear()
    tell(talk, ended(result=LONG))
    talk.conversation.peer.standing.leave()
    assert talk.context.waits == 0
    talk.context.answers.room.set()
    assert await talk.settled() == []


async def test_a_wait_can_be_withdrawn() -> None:
    talk = Conversing()
    await heard(talk, HOT)
    answers = await talk.settled(b'{"id":2,"n":"withdraw","m":{"call":1}}\n')
    assert [(answer["id"], answer["s"]) for answer in answers] == [(1, "err"), (2, "end")]
    assert answers[0]["e"]["code"] == "timeout"
    (none,) = await talk.settled(b'{"id":3,"n":"withdraw","m":{"call":1}}\n')
    assert none["e"]["code"] == "not_found"


async def test_of_two_calls_under_one_id_the_last_is_withdrawn() -> None:
    talk = Conversing()
    await heard(talk, HOT, HOT)
    talk.hear(b'{"id":2,"n":"withdraw","m":{"call":1}}\n')
    assert len(talk.backend.waiting["mine"]) == 1
    assert len(tell(talk, ended())) == 1


async def test_of_two_calls_under_one_id_both_can_be_withdrawn() -> None:
    talk = Conversing()
    await heard(talk, HOT, HOT)
    withdraw = b'{"id":2,"n":"withdraw","m":{"call":1}}\n'
    answers = await talk.settled(withdraw + withdraw + withdraw)
    assert [answer["s"] for answer in answers] == ["err", "end", "err", "end", "err"]
    assert answers[-1]["e"]["code"] == "not_found"
    assert talk.backend.waiting["mine"] == []


async def test_a_stop_answers_all_that_wait_also_before_their_flush() -> None:
    talk = Conversing()
    await heard(talk, HOT)
    talk.backend.journal.held = True
    talk.hear(HOT.replace(b'"id":1', b'"id":2'))
    talk.conversation.peer.standing.refuse_waits("draining", "the server is stopping")
    talk.backend.journal.flush()
    answers = talk.answers()
    assert [(answer["id"], answer["s"]) for answer in answers] == [(1, "err"), (2, "ok"), (2, "err")]
    assert talk.conversation.is_idle


async def test_json_rpc_is_told_by_a_notification_also_in_a_batch() -> None:
    talk = Conversing()
    job = '{"jsonrpc":"2.0","id":%d,"method":"insert","params":{"type":"x","id":"mine","wait":5}}'
    told = await heard(talk, f"[{job % 1},{job % 2}]\n".encode())
    event = {"jsonrpc": "2.0", "method": "event"}
    assert told == [event | {"params": {"call": number, "value": "mine"}} for number in (1, 2)]
    batch: Any
    (batch,) = tell(talk, ended(), alone=False)
    assert [answer["result"]["state"] for answer in batch] == ["success", "success"]


async def test_what_is_said_without_an_id_is_answered_without_one() -> None:
    talk = Conversing()
    assert await heard(talk, b'{"n":"insert","m":{"type":"x","id":"mine","wait":5}}\n') == [{"v": 1, "s": "ok", "m": "mine"}]
    (answer,) = tell(talk, ended())
    assert "id" not in answer


async def test_job_waits_for_the_end_and_answers_the_record() -> None:
    talk = Conversing()
    await talk.settled(b'{"id":1,"n":"insert","m":{"type":"x","id":"mine"}}\n')
    assert await heard(talk, b'{"id":2,"n":"job","m":{"id":"mine","wait":5}}\n') == []
    tell(talk, ended())
    (answer,) = await talk.settled()
    assert (answer["id"], answer["m"]["id"]) == (2, "mine")


async def test_job_answers_what_is_left_of_one_that_is_not_kept() -> None:
    talk = Conversing()
    await talk.settled(b'{"id":1,"n":"insert","m":{"type":"x","id":"mine"}}\n')
    await heard(talk, b'{"id":2,"n":"job","m":{"id":"mine","wait":5}}\n')
    talk.backend.journal.records.clear()
    tell(talk, ended())
    (answer,) = await talk.settled()
    assert answer["m"] == {"id": "mine", "state": "success"}


@pytest.mark.parametrize("state", [State.FAIL, State.SUCCESS])
async def test_job_answers_the_end_that_it_waited_for_where_another_job_has_the_id_by_now(state: State) -> None:
    talk = Conversing()
    await talk.settled(b'{"id":1,"n":"insert","m":{"type":"x","id":"mine"}}\n')
    await heard(talk, b'{"id":2,"n":"job","m":{"id":"mine","wait":5}}\n')
    tell(talk, ended(state))  # what is known under the id is new
    (answer,) = await talk.settled()
    assert answer["m"] == {"id": "mine", "state": state.word}


@pytest.mark.parametrize("is_made_again", [False, True])
async def test_job_tells_of_a_deletion_also_where_another_job_has_the_id_by_now(is_made_again: bool) -> None:
    talk = Conversing()
    await talk.settled(b'{"id":1,"n":"insert","m":{"type":"x","id":"mine"}}\n')
    await heard(talk, b'{"id":2,"n":"job","m":{"id":"mine","wait":5}}\n')
    if not is_made_again:
        talk.backend.journal.records.clear()
    answers = tell(talk, "deleted")
    assert codes(answers + await talk.settled()) == ["deleted"]
    assert talk.context.waits == 0


async def test_job_waits_from_its_call_on_however_long_the_first_look_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Conversing()
    await talk.settled(b'{"id":1,"n":"insert","m":{"type":"x","id":"mine"}}\n')
    look, delays = talk.backend.job, list[float]()
    call_later = talk.context.supervisor.call_later

    async def look_long(job_id: str) -> Any:
        await asyncio.sleep(0.05)
        return await look(job_id)

    def note(delay_s: float, *what: Any) -> asyncio.TimerHandle:
        delays.append(delay_s)
        return call_later(delay_s, *what)

    monkeypatch.setattr(talk.backend, "job", look_long)
    monkeypatch.setattr(talk.context.supervisor, "call_later", note)
    short, long = b'{"id":2,"n":"job","m":{"id":"mine","wait":0.01}}\n', b'{"id":3,"n":"job","m":{"id":"mine","wait":5}}\n'
    await heard(talk, short, long)
    assert delays[0] == 0.0
    assert 0.0 < delays[1] < 4.97


async def test_job_of_which_nothing_is_known_is_not_waited_for() -> None:
    talk = Conversing()
    assert codes(await heard(talk, b'{"id":2,"n":"job","m":{"id":"nobody","wait":5}}\n')) == ["not_found"]
    assert talk.context.waits == 0
