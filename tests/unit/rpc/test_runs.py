"""What remote workers say of their runs, from line to answer, over a desk on a real queue."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from unittest.mock import ANY

import msgspec
import pytest

from kqs.backend import ServerBackend
from kqs.errors import CallError, StoreUnavailableError
from kqs.job import Report, Returned
from kqs.outcome import Ok
from kqs.queue import saves
from kqs.rpc import runs
from kqs.rpc.reports import Finish, outcome_of
from kqs.states import State
from kqs.store import base
from kqs.wire.call import Call
from tests.support.jobs import NOW, an_accepted
from tests.support.parts import parts_of
from tests.support.queueing import Rig
from tests.support.remote import still
from tests.support.turning import until
from tests.support.worker_talk import Talk


@pytest.fixture
async def talk(rig: Rig) -> Talk:
    return Talk(rig)


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
    steps = runs.touching(talk.conversation.peer, Call("touch", argument, id=msgspec.Raw(b"1")))
    next(steps)  # the list is read
    next(steps)
    assert not talk.conversation.is_idle
    steps.close()
    assert talk.conversation.is_idle
    assert talk.answers() == []
