"""The calls by which remote workers ask for runs, from line to answer, over a desk on a real queue."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from kqs.rpc import working
from kqs.rpc.standing import MAX_STANDING
from kqs.states import State
from tests.support.jobs import ORDER, an_accepted
from tests.support.queueing import Rig
from tests.support.remote import still
from tests.support.worker_talk import Talk

JOB = f"{ORDER + 1:013x}-0000beef"


@pytest.fixture
async def talk(rig: Rig) -> Talk:
    return Talk(rig)


async def test_a_run_says_all_that_its_worker_needs(talk: Talk) -> None:
    assert await talk.run(1) == {
        "run": next(iter(talk.desk._runs)), "id": JOB, "type": "mail", "data": None, "attempt": 1, "failures": 0, "ghosts": 0,
        "ttr": 30.0,
    }  # fmt: skip
    run = await talk.run(2, auto_touch=True, time_limit=5, ttr=2.5)
    assert (run["auto_touch"], run["time_limit"], run["ttr"]) == (True, 5.0, 2.5)


async def test_who_does_not_wait_gets_what_is_on_its_way_or_nothing(
    talk: Talk, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await talk.ask("reserve", {"types": ["mail"]}) == []
    monkeypatch.setattr(working, "LEAST_WAIT_S", 20)
    await rig.accept(an_accepted(1))
    assert len(await talk.ask("reserve", {"types": ["mail"], "count": 1000})) == 1


async def test_a_reserve_is_not_in_flight_and_holds_up_nothing(talk: Talk) -> None:
    talk.say("reserve", {"types": ["mail"], "wait": 604_800}, 1)
    assert talk.conversation.is_idle
    assert await talk.ask("ping") == "pong"


@pytest.mark.parametrize("name", ["reserve", "work"])
@pytest.mark.parametrize(
    "argument",
    [
        None, {}, [], ["mail"], "mail", {"types": []}, {"types": "mail"}, {"types": [1]}, {"types": [""]}, {"types": [None]},
        {"types": ["x" * 201]}, {"types": ["é" * 101]}, {"types": ["a\nb"]}, {"types": ["\u202e"]}, {"types": ["a"] * 1001},
        {"types": ["a"], "worker": ""}, {"types": ["a"], "worker": "x" * 201}, {"types": ["a"], "worker": 7},
        {"types": ["a"], "worker": "a\u202eb"}, {"types": ["a"], "worker": "a\x00"}, {"types": ["a"], "worker": "\x1b[2J"},
        {"types": ["a"], "wait": -1, "room": 0}, {"types": ["a"], "wait": 604_801, "room": 10_001},
        {"types": ["a"], "wait": "1", "room": "1"}, {"types": ["a"], "count": 0, "room": 1.5}, {"types": ["a"], "nope": 1},
        {"types": ["a"], "count": 1001, "room": True}, {"types": ["a"], "wait": None, "room": None}, {"types": {"a": 1}},
    ],
    ids=lambda argument: json.dumps(argument)[:40],
)  # fmt: skip
async def test_what_does_not_fit_is_refused_and_nothing_stands(talk: Talk, name: str, argument: object) -> None:
    assert await talk.ask(name, argument) == "bad_call"
    assert talk.desk._pools == {}


async def test_a_thousand_long_types_may_be_named(talk: Talk) -> None:
    types = [f"{number:0200}" for number in range(1000)]
    assert await talk.ask("reserve", {"types": types}) == []
    talk.say("work", {"types": types})
    assert talk.gathered == []
    assert await talk.ask("reserve", {"types": types * 2}) == "bad_call"


async def test_so_many_calls_may_stand_and_the_next_is_busy(talk: Talk) -> None:
    for number in range(MAX_STANDING):
        talk.say(("reserve", "work")[number % 2], {"types": ["mail"]} | ({} if number % 2 else {"wait": 100}), number)
    assert talk.gathered == []
    assert await talk.ask("work", {"types": ["mail"]}) == "busy"
    assert await talk.ask("reserve", {"types": ["mail"]}) == "busy"
    talk.say("withdraw", {"call": 3}, "end")
    assert [answer["id"] for answer in await talk.heard(2)] == [3, "end"]
    talk.say("reserve", {"types": ["mail"], "wait": 100})
    assert talk.gathered == []


async def test_a_server_that_stops_gives_no_more_and_takes_what_ends(talk: Talk) -> None:
    run = await talk.run(1)
    talk.context.draining = True
    assert await talk.ask("work", {"types": ["mail"]}) == "draining"
    assert await talk.ask("reserve", {"types": ["mail"]}) == "draining"
    assert (await talk.ask("touch", {"run": run["run"]}))["left"] == 30
    assert await talk.ask("finish", {"run": run["run"], "report": "ok"}) is True


async def test_who_asks_after_its_end_of_input_is_answered_at_once(talk: Talk) -> None:
    talk.conversation.peer.standing.end()
    assert await talk.ask("reserve", {"types": ["mail"], "wait": 100}) == []
    assert await talk.ask("work", {"types": ["mail"]}) is None
    assert talk.desk._pools == {}


async def test_a_worker_that_is_gone_leaves_no_timer_behind(talk: Talk, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    timers, call_later = list[asyncio.TimerHandle](), rig.supervisor.call_later

    def noted(*asked: Any) -> asyncio.TimerHandle:
        timers.append(call_later(*asked))
        return timers[-1]

    monkeypatch.setattr(talk.context.supervisor, "call_later", noted)
    talk.say("reserve", {"types": ["mail"], "wait": 604_800})
    talk.conversation.forget()
    assert [timer.cancelled() for timer in timers] == [True]


async def test_work_brings_runs_until_it_is_withdrawn(talk: Talk, rig: Rig) -> None:
    talk.say("work", {"types": ["mail"], "room": 2, "worker": "w1"}, "w")
    for number in (1, 2):
        await rig.accept(an_accepted(number))
        (event,) = await talk.heard()
        assert (event["id"], event["s"], len(event["m"])) == ("w", "ok", 1)
    assert (await rig.record(1)).runs[0].worker == "w1"
    talk.say("withdraw", {"call": "w"}, 2)
    assert talk.gathered == [
        {"v": 1, "id": "w", "e": None, "s": "end", "m": None},
        {"v": 1, "id": 2, "e": None, "s": "end", "m": True},
    ]
    talk.gathered.clear()
    assert await talk.ask("withdraw", {"call": "w"}) == "not_found"
    assert await talk.ask("finish", {"run": event["m"][0]["run"], "report": "ok"}) is True


async def test_a_work_without_room_needs_no_types_and_brings_nothing(talk: Talk, rig: Rig) -> None:
    assert [await talk.ask("work", {"room": room}) for room in (1, 10_000)] == ["bad_call"] * 2
    assert [await talk.ask("work", {"room": 0, "types": types}) for types in ([], ["a" * 300], [1], "x")] == ["bad_call"] * 4
    assert await talk.ask("work", {"room": 0, "hold": True}) == "bad_call"
    talk.say("work", {"room": 0}, "bare")
    talk.say("work", {"room": 0, "types": ["mail"], "worker": "w", "hold": True}, "named")
    assert talk.gathered == []
    await rig.accept(an_accepted(1))
    assert await talk.ask("reserve", {"types": ["mail"], "wait": 10}) != []
    talk.say("withdraw", {"call": "bare"}, 2)
    talk.say("withdraw", {"call": "named"}, 3)
    said = [(answer["id"], answer["m"]) for answer in await talk.heard(4)]
    assert said == [("bare", None), (2, True), ("named", None), (3, True)]


async def test_what_was_withdrawn_is_called_off_by_another_work_of_its_connection(talk: Talk, rig: Rig) -> None:
    talk.say("work", {"types": ["mail"], "room": 2}, "w")
    await rig.accept(an_accepted(1))
    (event,) = await talk.heard()
    talk.say("withdraw", {"call": "w"}, 2)
    await talk.heard(2)
    talk.say("work", {"room": 0}, "w")
    rig.queue.runs.call_off([talk.desk._runs[event["m"][0]["run"]].run.claim])
    (told,) = await talk.heard()
    assert (told["id"], told["s"], told["m"]) == ("w", "ok", {"cancel": event["m"][0]["run"]})


async def test_a_work_call_without_an_id_is_brought_runs_as_well(talk: Talk, rig: Rig) -> None:
    assert talk.hear(b'{"n":"work","m":{"types":["mail"]}}\n') == []
    await rig.accept(an_accepted(1))
    (event,) = await talk.heard()
    assert (event["s"], event["m"][0]["id"], "id" in event) == ("ok", JOB, False)


@pytest.mark.parametrize(
    "argument", [None, {}, {"call": None}, {"call": True}, {"call": []}, {"call": {}}, {"call": 1, "x": 1}]
)
async def test_a_withdraw_names_a_call(talk: Talk, argument: object) -> None:
    assert await talk.ask("withdraw", argument) == "bad_call"


@pytest.mark.parametrize("call", [0, -1, "x", 1.5, 2**100, "x" * 1000, "\0"])
async def test_a_withdraw_of_nothing_finds_nothing(talk: Talk, call: object) -> None:
    assert await talk.ask("withdraw", {"call": call}) == "not_found"


async def test_a_lost_run_is_told_and_is_stale_from_then_on(talk: Talk, rig: Rig) -> None:
    talk.say("work", {"types": ["mail"]}, "w")
    job = an_accepted(1)
    job.options = b'{"ghosts":0}'
    await rig.accept(job)
    (event,) = await talk.heard()
    token = event["m"][0]["run"]
    rig.clock.advance(31)
    rig.queue.runs.look_again()
    (cancel,) = await talk.heard()
    assert (cancel["id"], cancel["s"], cancel["m"]) == ("w", "ok", {"cancel": token})
    assert await talk.ask("touch", {"run": token}) == "stale"
    assert await talk.ask("release", {"run": token}) == "stale"
    assert await talk.ask("finish", {"run": token, "report": "ok"}) == "stale"


async def test_runs_with_much_data_come_in_several_lists(talk: Talk, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "_EVENT_BYTES", 1000)
    lengths = (10, 600, 300, 600, 5000, 10, 10)
    await rig.accept(*(an_accepted(number, data=b'"%b"' % (b"x" * (length - 2))) for number, length in enumerate(lengths)))
    talk.say("work", {"types": ["mail"], "room": 100})
    events = await talk.heard(4)
    assert [[len(run["data"]) + 2 for run in event["m"]] for event in events] == [[10, 600, 300], [600], [5000], [10, 10]]


async def test_runs_with_much_progress_are_given_in_several_lines(
    talk: Talk, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "_EVENT_BYTES", 250)
    talk.say("work", {"types": ["mail"], "room": 4}, "w")
    await rig.accept(*(an_accepted(number) for number in range(4)))
    runs = [run for answer in await talk.heard(1) for run in answer["m"]]
    assert len(runs) == 4
    value = "x" * 98
    await talk.ask("touch", [{"run": run["run"], "progress": value} for run in runs])
    talk.say("withdraw", {"call": "w"})
    await talk.heard(2)
    for run in runs:
        await talk.ask("release", {"run": run["run"]})
    await still(rig)
    talk.gathered.clear()
    talk.say("work", {"types": ["mail"], "room": 4}, "again")
    answers = await talk.heard(2)
    assert [[run["progress"] for run in answer["m"]] for answer in answers] == [[value] * 2] * 2


@pytest.mark.parametrize("name", ["reserve", "work"])
@pytest.mark.parametrize("count", [1, 2])
async def test_a_lone_run_does_not_wait_for_the_end_of_the_tick(talk: Talk, rig: Rig, name: str, count: int) -> None:
    talk.say(name, {"types": ["mail"]} | ({"count": 5, "wait": 9} if name == "reserve" else {"room": 5}))
    await rig.accept(*(an_accepted(number) for number in range(1, count + 1)))
    (answer,) = await talk.heard()
    assert len(answer["m"]) == count
    assert talk.in_haste == [count == 1]


async def test_notifications_ask_for_nothing_and_report_in_silence(talk: Talk, rig: Rig) -> None:
    run = await talk.run(1)
    for name, params in (("reserve", {"types": ["mail"]}), ("work", {"types": ["mail"]}), ("work", {"types": []})):
        assert talk.hear(json.dumps({"jsonrpc": "2.0", "method": name, "params": params}).encode() + b"\n") == []
    assert talk.desk._pools.keys() == {(frozenset(["mail"]), "remote", False)}  # of the run above
    await rig.accept(an_accepted(2))
    await still(rig)
    assert talk.desk.runs_count == 1
    for report in ([], [{"run": "x", "report": "ok"}], {"run": run["run"], "report": "ok"}):
        assert talk.hear(json.dumps({"jsonrpc": "2.0", "method": "finish", "params": report}).encode() + b"\n") == []
    await rig.until(1, State.SUCCESS)
    await still(rig)
    assert talk.answers() == []


async def test_a_batch_is_answered_when_all_in_it_are(talk: Talk, rig: Rig) -> None:
    run = await talk.run(1)
    calls = [("reserve", {"types": ["mail"], "wait": 60}, 1), ("finish", {"run": run["run"], "report": "ok"}, 2),
             ("touch", {"run": "x"}, 3), ("ping", {}, None)]  # fmt: skip
    batch = [{"jsonrpc": "2.0", "method": name, "params": params} | ({"id": n} if n else {}) for name, params, n in calls]
    assert talk.hear(json.dumps(batch).encode() + b"\n") == []
    await rig.until(1, State.SUCCESS)
    await rig.accept(an_accepted(2))
    answers: Any
    (answers,) = await talk.heard()
    found = {answer["id"]: answer for answer in answers}
    assert found[1]["result"][0]["type"] == "mail"
    assert found[2]["result"] is True
    assert found[3]["error"]["data"]["code"] == "bad_call"


async def test_work_in_a_batch_is_brought_runs_before_the_batch_is_answered(talk: Talk, rig: Rig) -> None:
    batch = [
        {"jsonrpc": "2.0", "id": 1, "method": "work", "params": {"types": ["mail"]}},
        {"jsonrpc": "2.0", "id": 2, "method": "ping"},
    ]
    assert talk.hear(json.dumps(batch).encode() + b"\n") == []
    await rig.accept(an_accepted(1))
    (event,) = await talk.heard()
    assert (event["method"], event["params"]["call"], event["params"]["value"][0]["id"]) == ("event", 1, JOB)
    talk.conversation.peer.standing.end()
    answers: Any
    (answers,) = await talk.heard()
    assert {answer["id"]: answer["result"] for answer in answers} == {1: None, 2: "pong"}
