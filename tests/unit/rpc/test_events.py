"""The call that hears what happens to jobs, from the queue's word to the answers."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from msgspec import Raw

from kqs.job import Accepted, Claim, Entry, Report, Run
from kqs.outcome import Failed, Ok
from kqs.queue.ends import record_of
from kqs.queue.events import Batch, Word
from kqs.rpc import happenings
from kqs.rpc.happenings import Interest, Reader
from kqs.rpc.shown import JobView, shown_job, view_of
from kqs.rpc.standing import MAX_STANDING
from kqs.states import State
from kqs.wire.call import Call
from tests.support.conversing import Conversing
from tests.support.jobs import NOW, an_accepted
from tests.support.queueing import Rig
from tests.support.remote import a_desk

NOW_ORDER = int(NOW * 1e6)


class Talk(Conversing):
    """A conversation over a real queue."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(desk=a_desk(rig))
        self.rig = rig
        self.backend.events = rig.queue.events

    def say(self, name: str, argument: object = None, call_id: object = 1) -> list[dict[str, Any]]:
        return self.hear(json.dumps({"id": call_id, "n": name, "m": argument}).encode() + b"\n")

    async def turn(self) -> list[dict[str, Any]]:
        """What was said by the end of the next turn."""
        answers: list[dict[str, Any]] = []
        async with asyncio.timeout(10):
            while not answers:
                await asyncio.sleep(0)
                answers = self.answers()
        return answers

    async def events(self, count: int = 1) -> list[dict[str, Any]]:
        heard: list[dict[str, Any]] = []
        while len(heard) < count:
            heard += [answer["m"] for answer in await self.turn()]
        return heard

    def happen(self, *jobs: Accepted | Entry, word: Word = Word.QUEUED) -> None:
        self.rig.queue.events._tell(Batch(NOW, word, jobs))


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(happenings, "GATHER_S", 0.0)


@pytest.fixture
async def talk(rig: Rig) -> Talk:
    return Talk(rig)


async def test_each_event_is_an_answer_of_its_own_and_an_end_has_the_record(talk: Talk) -> None:
    assert talk.say("events", call_id="e") == []
    hand = talk.rig.hand(1)
    job = an_accepted(1, data=b'{"a":1}')
    await talk.rig.accept(job)
    await hand.end(await hand.take(), Ok(b"[1e400]"))
    said = (talk._said and talk.bytes_said()) or b""
    while said.count(b"\n") < 4:
        await asyncio.sleep(0)
        said += talk.bytes_said()
    lines = said.splitlines()
    head = b'{"v":1,"id":"e","e":null,"s":"ok","m":{"at":%b,"event":"%b","id":"%b","type":"mail","state":"%b","attempt":%d'
    told = [(b"created", b"new", 0), (b"queued", b"new", 0), (b"started", b"processing", 1), (b"success", b"success", 1)]
    for line, (word, state, attempt) in zip(lines, told, strict=True):
        assert line.startswith(head % (b"1800000000.0", word, job.id.encode(), state, attempt))
    assert (
        b'"job":{"id":"%b","type":"mail","state":"success","data":{"a":1},"options":{"prio":10000},' % job.id.encode()
        in lines[3]
    )
    assert b'"result":[1e400],"error":null}' in lines[3]
    assert b'"job"' not in b"".join(lines[:3])


async def test_json_rpc_hears_notifications(talk: Talk) -> None:
    talk.hear(b'{"jsonrpc":"2.0","id":7,"method":"events"}\n')
    talk.happen(an_accepted(1))
    (said,) = await talk.turn()
    assert (said["method"], said["params"]["call"], said["params"]["value"]["event"]) == ("event", 7, "queued")


async def test_a_reader_hears_what_it_asks_for(talk: Talk) -> None:
    talk.say("events", {"types": ["a", "b"], "events": ["queued"]})
    talk.happen(an_accepted(1, "a"), an_accepted(2, "c"), an_accepted(3, "b"))
    talk.happen(an_accepted(4, "a"), word=Word.CREATED)
    assert [event["type"] for event in await talk.events(2)] == ["a", "b"]


async def test_an_unknown_event_is_refused_with_those_that_there_are(talk: Talk) -> None:
    (answer,) = talk.say("events", {"events": ["created", "nope"]})
    assert re.fullmatch(
        r'events: expected a list of some of created, queued, .+, got \["created","nope"\]', answer["e"]["message"]
    )


@pytest.mark.parametrize(
    "argument",
    [
        {"types": []},
        {"types": "a"},
        {"types": [""]},
        {"events": []},
        {"events": ["finished"]},
        {"events": "fail"},
        {"type": ["a"]},
    ],
)
async def test_a_wrong_argument_is_refused(talk: Talk, argument: object) -> None:
    (answer,) = talk.say("events", argument)
    assert answer["e"]["code"] == "bad_call"
    assert not talk.rig.queue.events.is_heard


async def test_it_ends_by_withdraw_and_with_the_input_and_nothing_is_heard_any_more(talk: Talk) -> None:
    talk.say("events", call_id="e")
    talk.say("events", call_id="f")
    assert [(answer["id"], answer["m"]) for answer in talk.say("withdraw", {"call": "e"})] == [("e", None), (1, True)]
    assert talk.say("withdraw", {"call": "e"})[0]["e"]["code"] == "not_found"
    assert talk.rig.queue.events.is_heard
    talk.conversation.peer.standing.end()
    assert [(answer["id"], answer["m"]) for answer in talk.answers()] == [("f", None)]
    assert not talk.rig.queue.events.is_heard
    assert talk.say("events", call_id="g")[0]["m"] is None


async def test_a_peer_that_is_gone_is_forgotten(talk: Talk) -> None:
    talk.say("events")
    talk.happen(an_accepted(1))
    talk.conversation.forget()
    assert not talk.rig.queue.events.is_heard
    assert talk.context.happenings._timer is None


async def test_as_a_notification_it_hears_nothing(talk: Talk) -> None:
    talk.hear(b'{"jsonrpc":"2.0","method":"events"}\n')
    assert not talk.rig.queue.events.is_heard


async def test_calls_of_one_connection_are_bounded(talk: Talk) -> None:
    for number in range(MAX_STANDING):
        assert talk.say("events", call_id=number) == []
    (refused,) = talk.say("events", call_id="e")
    assert refused["e"]["code"] == "busy"


async def test_who_does_not_take_them_is_told_how_many_of_its_own_were_skipped(talk: Talk) -> None:
    talk.say("events", {"types": ["a"]}, call_id="e")
    talk.say("events", {"events": ["created"]}, call_id="f")
    talk.conversation.peer.standing.pause()
    talk.say("events", call_id="g")
    talk.happen(an_accepted(1, "a"), an_accepted(2, "b"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert talk.answers() == []
    talk.conversation.peer.standing.resume()
    assert [(answer["id"], answer["m"]) for answer in await talk.turn()] == [("e", {"skipped": 1}), ("g", {"skipped": 2})]
    talk.happen(an_accepted(3, "a"))
    assert [answer["id"] for answer in await talk.turn()] == ["e", "g"]


async def test_what_finds_no_room_is_skipped_in_its_place(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(happenings, "MOST_WAITING", 3)
    talk.say("events", {"types": ["a"]})
    talk.happen(an_accepted(1, "a"), an_accepted(2, "b"), an_accepted(3, "a"))
    talk.happen(an_accepted(4, "a"))
    talk.happen(an_accepted(5, "a"), an_accepted(6, "b"))
    *first, skipped = await talk.events(3)
    assert [event["type"] for event in first] == ["a", "a"]
    assert skipped == {"skipped": 2}
    talk.happen(an_accepted(7, "a"))
    assert [event["id"] for event in await talk.events()] == [an_accepted(7).id]


async def test_long_data_that_waits_is_bounded_too(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(happenings, "MOST_WAITING_BYTES", 100)
    talk.say("events")
    talk.happen(an_accepted(1, data=b"1" * 100))
    talk.happen(an_accepted(2, data=b"1"))
    assert [event.get("id", event) for event in await talk.events(2)] == [an_accepted(1).id, {"skipped": 1}]
    talk.happen(Entry(1, "x", "mail", 1))
    assert [event["id"] for event in await talk.events()] == ["x"]


async def test_many_are_told_in_several_turns_and_all_are(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(happenings, "TURN_S", 0.0001)
    talk.say("events")
    talk.happen(*map(an_accepted, range(1000)))
    heard: list[str] = []
    while len(heard) < 1000:
        heard += [event["id"] for event in await talk.events()]
    assert heard == [an_accepted(number).id for number in range(1000)]


async def test_what_all_hear_is_encoded_once(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    encode = happenings.Happenings._encoded

    def counted(self: happenings.Happenings, batch: Batch) -> list[bytes]:
        encoded.append(len(batch.jobs))
        return encode(self, batch)

    monkeypatch.setattr(happenings.Happenings, "_encoded", counted)
    for number in range(10):
        talk.say("events", {"types": ["mail"]} if number % 2 else None, call_id=number)
    talk.happen(*map(an_accepted, range(7)))
    assert len(await talk.turn()) == 70
    assert encoded == [7]


async def test_a_long_result_is_left_out(talk: Talk) -> None:
    talk.say("events", {"events": ["success", "fail"]})
    hand = talk.rig.hand(1)
    job = an_accepted(1)
    job.options = b'{"retries":0}'
    await talk.rig.accept(an_accepted(2, data=b'"%b"' % (b"x" * 2000)))
    await hand.end(await hand.take(), Ok(b'"%b"' % (b"y" * 2000)))
    await talk.rig.accept(job)
    await hand.end(await hand.take(), Failed("no"))
    told: list[dict[str, Any]] = []
    while len(told) < 2:
        told += await talk.events()
    assert (told[0]["job"]["data"], told[0]["job"]["result"]) == (None, None)
    assert (told[1]["event"], told[1]["job"]["error"]) == ("fail", "no")


@pytest.mark.parametrize("has_begun", [True, False])
@pytest.mark.parametrize("state", [State.SUCCESS, State.RETRY, State.CANCELLED])
async def test_an_end_is_shown_as_its_record_is(talk: Talk, state: State, has_begun: bool) -> None:
    claim = Claim(NOW_ORDER, "x", 3, 1)
    run = Run(claim, "mail", 5, b'{"a":1}', b'{"retries":7}', expire_at=NOW + 9, returned=1, progress=b"4", group="g")
    report = Report(claim, "mail", state, "again", NOW, 12.5, NOW + 60, b"[1]", "no", 1, 2, 3, 1, has_begun)
    told = talk.context.happenings._end_view(NOW, Word.SUCCESS, run, report)
    record = record_of(run, report)
    assert isinstance(told.job, JobView)
    assert told.job == view_of(record, told.job.options)
    assert set(JobView.__struct_fields__) <= shown_job(record, {}).keys()
    assert (told.id, told.type, told.state, told.attempt) == (record.id, record.type, record.state.word, run.attempt)


async def test_calls_of_one_id_are_told_in_one_piece_of_bytes(talk: Talk) -> None:
    sent: list[bytes] = []
    has_all = asyncio.Event()

    class Hearer:
        def send(self, answers: bytes) -> None:
            sent.append(answers)
            if len(sent) == 3:
                has_all.set()

        def settle(self, count: int = 1, *, at_once: bool = False) -> None:
            pass

    hearings = talk.context.happenings
    for call_id in (b"1", b"1", b"2"):
        hearings.add(Reader(hearings, Hearer(), Call("events", id=Raw(call_id)), Interest(None, None)))
    talk.happen(an_accepted(1), an_accepted(2))
    await asyncio.wait_for(has_all.wait(), 10)
    assert sent[0] is sent[1]
    assert sent[2] == sent[0].replace(b'"id":1,', b'"id":2,')


async def test_a_lost_worker_is_one_event_with_its_runs(talk: Talk) -> None:
    talk.say("events", {"types": ["mail"]}, call_id="e")
    talk.say("events", {"types": ["other"]}, call_id="f")
    hand = talk.rig.hand(2)
    await talk.rig.accept(an_accepted(1), an_accepted(2))
    runs = [await hand.take(), await hand.take()]
    talk.rig.queue.events.worker_lost("w7", runs)
    while (said := (await talk.turn())[-1])["m"]["event"] != "worker_lost":
        pass
    ids = [run.claim.id for run in runs]
    assert (said["id"], said["m"]) == ("e", {"at": NOW, "event": "worker_lost", "worker": "w7", "runs": 2, "ids": ids})


async def test_a_record_of_a_job_that_is_gone_has_no_type(talk: Talk) -> None:
    talk.say("events", call_id="e")
    talk.rig.queue.events.changed(Word.EXPIRED, [talk.rig.queue.events.ends.unrun_record("x", State.FAIL, "expired")])
    (event,) = await talk.events()
    assert (event["id"], event["type"], event["state"], "job" in event) == ("x", None, "fail", False)
