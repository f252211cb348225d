"""The calls of remote workers, from line to answer, over a desk on a real queue."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from unittest.mock import ANY

import msgspec
import pytest

from kqs.backend import ServerBackend
from kqs.errors import CallError, StoreUnavailableError
from kqs.job import Report, Returned
from kqs.outcome import Ok
from kqs.queue import saves
from kqs.rpc import working
from kqs.rpc.reports import Finish, outcome_of
from kqs.rpc.standing import MAX_STANDING
from kqs.states import State
from kqs.store import base
from kqs.wire.call import Call
from tests.support.conversing import Conversing
from tests.support.jobs import NOW, ORDER, an_accepted
from tests.support.parts import parts_of
from tests.support.queueing import Rig
from tests.support.remote import a_desk, still
from tests.support.turning import until

JOB = f"{ORDER + 1:013x}-0000beef"


class Talk(Conversing):
    """A conversation with a worker."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.desk = a_desk(rig)
        self.gathered: list[dict[str, Any]] = []
        super().__init__(max_line_bytes=20 * 1024 * 1024, desk=self.desk)

    def say(self, name: str, argument: object = None, call_id: object = 1) -> None:
        """Send a call; what is answered at once is gathered."""
        self.gathered += self.hear(json.dumps({"id": call_id, "n": name, "m": argument}).encode() + b"\n")

    async def heard(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait for so many answers."""

        def look() -> bool:
            self.proceed()
            self.gathered.extend(self.answers())
            return len(self.gathered) >= count

        await until(look)
        answers, self.gathered = self.gathered, []
        return answers

    async def ask(self, name: str, argument: object = None) -> Any:
        """The result of one call, or its error's code."""
        self.say(name, argument, "ask")
        (answer,) = await self.heard()
        assert answer["id"] == "ask"
        return answer["e"]["code"] if answer["s"] == "err" else answer["m"]

    async def run(self, number: int = 1, **options: object) -> dict[str, Any]:
        """Have a job run, and return the run."""
        job = an_accepted(number)
        job.options = msgspec.json.encode(options) if options else None
        self.say("reserve", {"types": ["mail"], "wait": 10}, f"r{number}")
        await self.rig.accept(job)
        (answer,) = await self.heard()
        run: dict[str, Any]
        (run,) = answer["m"]
        return run


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


async def test_a_list_is_answered_in_its_order_whatever_is_in_it(talk: Talk) -> None:
    runs = [await talk.run(number) for number in (1, 2)]
    first, second = (run["run"] for run in runs)
    members = [{"run": "x", "report": "ok"}, 7, {"run": first, "report": "ok", "result": {"a": 1}}]
    members += [{"run": first, "report": "fail"}, {"run": second, "report": "fail", "reason": "no"}]
    answers = await talk.ask("finish", members)
    assert [answer if answer is True else answer["code"] for answer in answers] == ["bad_call", "bad_call", True, "stale", True]
    record = await talk.rig.record(1)
    assert (record.state, record.result) == (State.SUCCESS, b'{"a": 1}')
    assert (await talk.rig.record(2)).error == "no"


async def test_a_list_of_nothing_is_answered_with_nothing(talk: Talk) -> None:
    for name in ("touch", "release", "finish"):
        assert await talk.ask(name, []) == []


async def test_a_touch_says_how_long_is_left(talk: Talk) -> None:
    run = await talk.run(1, time_limit=40)
    talk.rig.clock.advance(25)
    assert await talk.ask("touch", {"run": run["run"]}) == {"left": 15.0, "cancel": False}
    assert await talk.ask("touch", [{"run": run["run"]}, {"run": "x"}]) == [
        {"left": 15.0, "cancel": False},
        {"code": "bad_call", "message": 'run: expected the token of a run, got "x"'},
    ]
    talk.rig.clock.advance(16)  # nobody has looked yet
    assert (await talk.ask("touch", {"run": run["run"]}))["left"] == 0


async def test_a_touch_that_says_how_far_a_run_is_is_answered_when_that_is_kept(talk: Talk, rig: Rig) -> None:
    run = await talk.run(1)
    talk.rig.clock.advance(10)
    assert await talk.ask("touch", {"run": run["run"], "progress": {"page": 3}}) == {"left": 30.0, "cancel": False}
    assert (await rig.record(1)).progress == b'{"page": 3}'
    answers = await talk.ask("touch", [{"run": run["run"], "progress": value} for value in (1, None, "x")])
    assert answers == [{"left": 30.0, "cancel": False}] * 3
    assert (await rig.record(1)).progress == b'"x"'


async def test_a_run_whose_end_another_server_took_says_nothing_more(talk: Talk, rig: Rig) -> None:
    run = await talk.run(1)
    claim = talk.desk._runs[run["run"]].run.claim
    await rig.store.report([Report(claim, "mail", State.RETRY, "fail", NOW)])
    assert await talk.ask("touch", {"run": run["run"], "progress": 1}) == "stale"
    assert (await rig.record(1)).progress is None


async def test_while_the_store_is_far_behind_progress_is_refused_with_its_touch(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saves, "MOST_BYTES", -1)
    run = await talk.run(1)
    talk.rig.clock.advance(10)
    assert await talk.ask("touch", {"run": run["run"], "progress": 1}) == "busy"
    assert talk.desk.left_s(talk.desk._runs[run["run"]]) == 20
    assert (await talk.ask("touch", {"run": run["run"]}))["left"] == 30


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


async def test_a_released_run_is_over_and_its_job_waits(talk: Talk, rig: Rig) -> None:
    run = await talk.run(1)
    assert await talk.ask("release", {"run": run["run"], "delay": 60}) is True
    assert (await rig.record(1)).due_at == NOW + 60
    assert await talk.ask("release", {"run": run["run"]}) == "stale"
    talk.backend.ended.add((run["id"], Returned))
    assert await talk.ask("release", {"run": run["run"]}) is True
    assert await talk.ask("release", [{"run": run["run"]}, {"run": "x"}]) == [True, {"code": "bad_call", "message": ANY}]


async def test_a_job_released_with_a_priority_has_it_from_then_on(talk: Talk, rig: Rig) -> None:
    run = await talk.run(1)
    await rig.accept(an_accepted(2), an_accepted(3))
    assert await talk.ask("release", {"run": run["run"], "prio": "bulk"}) is True
    await still(rig)  # the answer comes with the record, the job stands in line a little later
    runs = await talk.ask("reserve", {"types": ["mail"], "count": 3, "wait": 10})
    assert [one["id"] for one in runs] == [an_accepted(number).id for number in (2, 3, 1)]
    record = await rig.record(1)
    assert (record.prio, record.interrupted, record.attempt) == (12_000, 1, 2)
    assert await talk.ask("release", [{"run": one["run"], "prio": 5 - n} for n, one in enumerate(runs)]) == [True] * 3
    await still(rig)
    assert [one["id"] for one in await talk.ask("reserve", {"types": ["mail"], "count": 3, "wait": 10})] == [
        an_accepted(number).id for number in (1, 3, 2)
    ]


async def test_a_run_that_never_began_leaves_no_trace(talk: Talk, rig: Rig) -> None:
    run = await talk.run(1)
    before = await rig.record(1)
    assert await talk.ask("release", {"run": run["run"], "begun": False}) is True
    record = await rig.record(1)
    assert (record.state, record.attempt, record.interrupted, record.runs) == (State.NEW, 0, 0, [])
    (again,) = await talk.ask("reserve", {"types": ["mail"], "wait": 10})
    assert (again["id"], again["attempt"]) == (run["id"], 1)
    assert (await rig.record(1)).attempt == before.attempt
    assert await talk.ask("finish", {"run": run["run"], "report": "ok"}) == "stale"


async def test_what_was_said_of_a_run_that_never_began_is_kept(talk: Talk, rig: Rig) -> None:
    run = await talk.run(1)
    for number in range(3):  # the claims of one job, and none of what is said of them is taken for another's
        touch, release = [{"run": run["run"], "progress": number}], {"run": run["run"], "begun": False}
        talk.say("touch", touch, "t")
        talk.say("release", release, "r")
        answers = {answer["id"]: answer["m"] for answer in await talk.heard(2)}
        assert (answers["r"], answers["t"][0]["cancel"]) == (True, False)
        (run,) = await talk.ask("reserve", {"types": ["mail"], "wait": 10})
        assert (run["attempt"], run["progress"]) == (1, number)


@pytest.mark.parametrize("name", ["touch", "release", "finish"])
async def test_a_call_that_is_none_is_refused_as_a_whole(talk: Talk, name: str) -> None:
    argument: object
    for argument in (None, 7, "x", {}, {"run": 1}, {"run": "x" * 100_000, "report": "ok"}, [{}] * 10_001):
        assert await talk.ask(name, argument) in ("bad_call", "too_large")


async def test_a_repeated_report_is_true_if_that_is_how_the_run_has_ended(talk: Talk) -> None:
    run = await talk.run(1)
    assert await talk.ask("finish", {"run": run["run"], "report": "ok"}) is True
    talk.backend.ended.add((run["id"], Ok))
    assert await talk.ask("finish", {"run": run["run"], "report": "ok", "result": 7}) is True
    assert await talk.ask("finish", {"run": run["run"], "report": "again"}) == "stale"


async def test_a_store_that_cannot_be_asked_is_told_of_each(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await talk.run(1)
    await talk.ask("release", {"run": run["run"], "delay": 100})

    async def refuse(*_: object) -> bool:
        raise CallError("the store cannot be asked now", "busy")

    monkeypatch.setattr(talk.backend, "report_unwatched", refuse)
    answers = await talk.ask("finish", [{"run": run["run"], "report": "ok"}] * 3)
    assert [answer["code"] for answer in answers] == ["busy"] * 3


async def test_thousands_of_old_reports_are_one_task_and_the_next_such_call_waits(talk: Talk) -> None:
    run = await talk.run(1)
    await talk.ask("release", {"run": run["run"], "delay": 100})
    old = [{"run": run["run"], "report": "ok"}] * 10_000
    for call_id in range(3):
        talk.say("finish", old, call_id)
    assert len(talk.context.tasks) == 1
    assert talk.conversation.is_full
    answers = await talk.heard(3)
    assert [answer["id"] for answer in answers] == [0, 1, 2]
    assert all({one["code"] for one in answer["m"]} == {"stale"} for answer in answers)
    assert talk.conversation.is_idle


async def test_nobody_is_asked_for_a_worker_that_is_gone(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await talk.run(1)
    await talk.ask("release", {"run": run["run"], "delay": 100})
    asked = []

    async def note(*args: object) -> bool:
        asked.append(args)
        return False

    monkeypatch.setattr(talk.backend, "report_unwatched", note)
    talk.say("finish", [{"run": run["run"], "report": "ok"}] * 100)
    talk.conversation.forget()
    await until(lambda: not talk.context.tasks)
    assert len(asked) <= 1


async def test_what_names_a_run_before_the_store_is_there_is_told_to_come_again(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = (await talk.run(1))["run"]
    await talk.ask("release", {"run": token, "delay": 100})
    monkeypatch.setattr(talk.desk, "_is_started", False)
    for name, more in (("touch", {}), ("release", {}), ("finish", {"report": "ok"})):
        assert await talk.ask(name, {"run": token} | more) == "busy"
        assert await talk.ask(name, {"run": "none"} | more) == "busy"


async def test_results_that_wait_for_a_store_which_is_away_are_bounded(
    talk: Talk, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "DATA_BYTES", 1000)
    first, second, third = [(await talk.run(number))["run"] for number in (1, 2, 3)]
    take, away = rig.store.report, asyncio.Event()

    async def report(reports: Sequence[Report]) -> Sequence[bool | None]:
        if not away.is_set():
            raise StoreUnavailableError("away")
        return await take(reports)

    monkeypatch.setattr(rig.store, "report", report)
    talk.say("finish", {"run": first, "report": "ok", "result": "x" * 2000}, "first")
    talk.say("finish", {"run": third, "report": "ok"}, "third")
    await still(rig)
    rig.clock.advance(20)
    assert await talk.ask("finish", {"run": second, "report": "ok", "result": 1}) == "busy"
    rig.clock.advance(20)
    rig.queue.runs.look_again()
    assert (await talk.ask("touch", {"run": second}))["left"] > 0  # so it may be said again
    away.set()
    assert {answer["id"] for answer in await talk.heard(2)} == {"first", "third"}
    assert await talk.ask("finish", {"run": second, "report": "ok", "result": 1}) is True


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


def a_backend(talk: Talk) -> ServerBackend:
    return ServerBackend(parts_of(talk.rig.queue, desk=talk.desk))


async def test_whether_a_run_ended_so_is_asked_of_the_record(rig: Rig) -> None:
    talk = Talk(rig)
    backend = a_backend(talk)
    run = await talk.run(1)
    named = talk.desk.named(run["run"])
    assert named is not None
    await talk.ask("finish", {"run": run["run"], "report": "ok"})
    assert await backend.report_unwatched(named, Ok())
    assert not await backend.report_unwatched(named, outcome_of(Finish("x", "fail")))
    assert not await backend.report_unwatched(named, outcome_of(Finish("x", "again")))
    assert not await backend.report_unwatched(named._replace(attempt=2), Ok())
    other = msgspec.structs.replace(named.claim, order=named.claim.order + 1)
    assert not await backend.report_unwatched(named._replace(claim=other), Ok())
    assert not await backend.report_unwatched(named._replace(claim=msgspec.structs.replace(named.claim, id="nobody")), Ok())


async def test_a_run_of_the_same_number_that_a_later_boot_has_claimed_is_another(rig: Rig) -> None:
    talk = Talk(rig)
    named = talk.desk.named((await talk.run(1))["run"])
    assert named is not None
    backend = a_backend(talk)
    for change in ({"epoch": named.claim.epoch - 1}, {"order": named.claim.order + 1}):
        other = named._replace(claim=msgspec.structs.replace(named.claim, **change))
        assert not await backend.report_unwatched(other, Ok())
    assert not await backend.report_unwatched(named._replace(attempt=2), Ok())
    assert await backend.report_unwatched(named, Ok())


async def test_a_report_that_the_store_refuses_is_stale(talk: Talk, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another server may have given the job back meanwhile."""
    first, second = (await talk.run(1))["run"], (await talk.run(2))["run"]

    async def refuse(reports: list[object]) -> list[bool]:
        return [False] * len(reports)

    monkeypatch.setattr(rig.store, "report", refuse)
    assert await talk.ask("finish", {"run": first, "report": "ok"}) == "stale"
    assert [one["code"] for one in await talk.ask("release", [{"run": second}])] == ["stale"]
    assert talk.desk.runs_count == 0


async def test_a_list_that_is_turned_away_in_the_midst_keeps_nobody_waiting(talk: Talk) -> None:
    argument = msgspec.Raw(b"[" + b",".join([b'{"run":"x"}'] * 1000) + b"]")
    steps = working.touching(talk.conversation.peer, Call("touch", argument, id=msgspec.Raw(b"1")))
    next(steps)  # the list is read
    next(steps)
    assert not talk.conversation.is_idle
    steps.close()
    assert talk.conversation.is_idle
    assert talk.answers() == []
