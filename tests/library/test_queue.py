"""What a queue does for a program, wherever it stands."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import threading
import time
import uuid
from collections.abc import Coroutine
from typing import Any

import pytest
from pydantic import BaseModel

import kqs
from kqs.errors import CallError
from kqs.handlers import HandlerError, Registry


class Resize(BaseModel):
    img: int


@dataclasses.dataclass
class Crop:
    img: int


async def done(_data: Any) -> str:
    return "done"


async def test_a_job_is_kept_run_and_its_end_told(queue: kqs.Queue, type_: str) -> None:
    async def resize(data: dict[str, int]) -> dict[str, int]:
        return {"width": data["img"] * 2}

    queue.add_handler(type_, resize)
    job = await queue.add_job(resize, {"img": 7}, prio="high", retries=3)
    known = await queue.job(job.id)
    assert known is not None
    assert (known.state, known.data, known.options["prio"], known.options["retries"]) == ("new", {"img": 7}, 9000, 3)
    assert await queue.run_jobs() == 1
    ended = await job.wait(10)
    assert (ended.state, ended.result, ended.attempt, ended.has_ended) == ("success", {"width": 14}, 1, True)
    assert [run.state for run in ended.runs] == ["success"]


@pytest.mark.parametrize("data", [Resize(img=7), Crop(7), {"img": 7}])
async def test_models_dataclasses_and_plain_values_are_data(queue: kqs.Queue, type_: str, data: object) -> None:
    got: list[Resize] = []

    async def resize(data: Resize) -> None:
        got.append(data)

    resize.__annotations__["data"] = Resize
    queue.add_handler(type_, resize)
    await queue.add_job(type_, data)
    await queue.run_jobs()
    assert got == [Resize(img=7)]


async def test_a_result_is_what_the_handler_says_that_it_returns(queue: kqs.Queue, type_: str) -> None:
    async def resize(data: int) -> Resize:
        return Resize(img=data)

    async def crop(data: int, _job: kqs.JobContext) -> tuple[int, int]:
        return data, data

    async def plain(data: int):  # type: ignore[no-untyped-def]  # as many are
        return {"img": data}

    resize.__annotations__["return"] = Resize
    for name, handler in (("resize", resize), ("crop", crop), ("plain", plain)):
        queue.add_handler(f"{type_}-{name}", handler)
    resized, cropped, made = await queue.add_job(resize, 7), await queue.add_job(crop, 7), await queue.add_job(plain, 7)
    named = await queue.add_job(f"{type_}-resize", 7)
    assert await queue.run_jobs(4, 10) == 4
    assert await resized.result(10) == Resize(img=7)
    assert await cropped.result(10) == (7, 7)
    assert await made.result(10) == await named.result(10) == {"img": 7}


async def test_who_waits_for_a_result_is_told_why_there_is_none(queue: kqs.Queue, type_: str) -> None:
    def fails(_data: Any) -> int:
        raise kqs.Fail("no such image")

    def lies(_data: Any) -> int:
        return "seven"  # type: ignore[return-value]  # that is the lie

    queue.add_handler(type_, fails)
    queue.add_handler(f"{type_}-lies", lies)
    failed, cancelled, lied = (
        await queue.add_job(fails, 1),
        await queue.add_job(f"{type_}-none", 1),
        await queue.add_job(lies, 1),
    )
    await queue.cancel(cancelled.id)
    assert await queue.run_jobs(2, 10) == 2
    for job, code in ((failed, "job_failed"), (cancelled, "cancelled")):
        with pytest.raises(CallError) as refused:
            await job.result(10)
        assert refused.value.call_code == code
    with pytest.raises(ValueError, match="int"):
        await lied.result(10)


@pytest.mark.parametrize(
    ("data", "words"), [(float("nan"), "NaN"), ({1, object()}, "object"), ([1.5, float("inf")], "NaN and Infinity")]
)
async def test_data_that_json_cannot_say_is_refused_before_anything_is_kept(
    queue: kqs.Queue, type_: str, data: object, words: str
) -> None:
    with pytest.raises(CallError, match=words) as refused:
        await queue.add_job(type_, data)
    assert refused.value.call_code == "bad_job"


async def test_to_wait_for_a_job_is_no_field_of_it(queue: kqs.Queue, type_: str) -> None:
    fields: dict[str, Any] = {"type": type_, "wait": 5}
    one: Coroutine[Any, Any, object] = queue.add_job(type_, wait=5)  # type: ignore[call-overload]  # as a checker says too
    for work in (queue.add_jobs([fields]), one, queue.add_batch([fields], {"type": type_})):
        with pytest.raises(CallError, match=r"wait: .*`await job.wait\(seconds\)`") as refused:
            await work
        assert refused.value.call_code == "bad_job"


async def test_a_function_that_is_no_handler_is_named(queue: kqs.Queue) -> None:
    with pytest.raises(ValueError, match="done is no handler here"):
        await queue.add_job(done, None)


async def test_jobs_are_kept_all_or_none_and_an_id_once(queue: kqs.Queue, type_: str) -> None:
    first, second = await queue.add_jobs([{"type": type_, "id": f"{hash(type_)}"}, {"type": type_, "data": 2}])
    assert (first.created, second.created) == (True, True)
    assert not (await queue.add_job(type_, id=f"{hash(type_)}")).created
    with pytest.raises(CallError, match="ttr"):
        await queue.add_jobs([{"type": type_}, {"type": type_, "ttr": -1}])
    assert (await queue.purge(type_)) == 2


async def test_a_second_waiting_job_of_a_key_is_joined_or_refused(queue: kqs.Queue, type_: str) -> None:
    first = await queue.add_job(type_, unique="k")
    joined = await queue.add_job(type_, unique="k")
    assert (joined.id, joined.created) == (first.id, False)
    with pytest.raises(CallError) as refused:
        await queue.add_job(type_, unique="k", on_conflict="refuse")
    assert refused.value.call_code == "duplicate"


@pytest.mark.parametrize(
    ("limits", "ran"),
    [
        ((), 1),
        ((3,), 3),
        ((100,), 5),
        ((-1,), 5),
        ((0,), 0),
        ((None, 0), 5),
        ((2, 0), 2),
        ((5, 30.0), 5),
        ((5, -1), 5),
        ((-1, 0.5), 5),
        ((None, 0.5), 5),
    ],
)
async def test_so_many_of_five_jobs_run(queue: kqs.Queue, type_: str, limits: tuple[Any, ...], ran: int) -> None:
    queue.add_handler(type_, done)
    await queue.add_jobs([{"type": type_}] * 5)
    assert await queue.run_jobs(*limits) == ran
    (shown,) = [one for one in await queue.types(limit=1000) if one["type"] == type_]
    assert shown["counts"].get("success", 0) == ran


@pytest.mark.parametrize(
    "limits", [("all",), (1.5,), (True,), (float("nan"),), (None, "long"), (None, float("nan")), (1, True)]
)
async def test_what_is_no_limit_of_runs_is_named(queue: kqs.Queue, type_: str, limits: tuple[Any, ...]) -> None:
    queue.add_handler(type_, done)
    with pytest.raises(ValueError, match=r"(count_limit|time_limit_s): expected a"):
        await queue.run_jobs(*limits)
    job = await queue.add_job(type_)
    assert await queue.run_jobs(1, 10**400) == 1
    assert (await job.wait(5)).state == "success"


async def test_a_job_that_waits_again_at_once_is_one_that_waits(queue: kqs.Queue, type_: str) -> None:
    async def again(_data: Any, job: kqs.JobContext) -> int:
        if job.attempt % 2:
            raise kqs.Again
        if job.attempt <= 20:
            raise ValueError("retried at once")
        return job.attempt

    queue.add_handler(type_, again)
    job = await queue.add_job(type_, retry_delay=0)
    assert await queue.run_jobs() == 1
    assert await queue.run_jobs() == 1
    assert await queue.run_jobs(-1) == 20
    assert (await job.wait(5)).result == 22


@pytest.mark.parametrize("seconds", [0, -1, None, "long", float("nan"), float("inf")])
async def test_what_is_no_time_to_wait_is_named(queue: kqs.Queue, type_: str, seconds: Any) -> None:
    job = await queue.add_job(type_)
    with pytest.raises(ValueError, match="wait: expected a number of seconds above 0 and up to 10000000000, got"):
        await job.wait(seconds)


async def test_without_run_jobs_a_handler_runs_nothing_and_without_handlers_run_jobs_does_nothing(
    queue: kqs.Queue, type_: str
) -> None:
    job = await queue.add_job(type_)
    assert await queue.run_jobs() == 0
    assert await queue.run_jobs(-1) == 0
    assert await queue.run_jobs(time_limit_s=0.05) == 0
    queue.add_handler(type_, done)
    with pytest.raises(CallError) as late:
        await job.wait(0.05)
    assert late.value.call_code == "timeout"


async def test_jobs_that_come_while_time_is_left_run(queue: kqs.Queue, type_: str) -> None:
    queue.add_handler(type_, done)
    running = asyncio.create_task(queue.run_jobs(3, 30.0))
    for _ in range(3):
        assert (await (await queue.add_job(type_)).wait(10)).state == "success"
    assert await running == 3


async def test_a_running_handler_is_waited_for_past_the_time(queue: kqs.Queue, type_: str) -> None:
    async def slow(_data: Any) -> str:
        await asyncio.sleep(0.7)
        return "slow"

    queue.add_handler(type_, slow)
    job = await queue.add_job(type_)
    assert await queue.run_jobs(time_limit_s=0.5) == 1
    assert (await job.wait(5)).result == "slow"


@pytest.mark.parametrize("queue", ["open", "connect"], indirect=True)  # its handlers share a loop with it
async def test_past_its_time_a_handler_hears_that_its_job_is_cancelled_and_no_other_job_is_kept_waiting(
    queue: kqs.Queue, type_: str
) -> None:
    cancelled = asyncio.Event()

    async def lasts(data: Any) -> None:
        try:
            await asyncio.sleep(data)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    queue.add_handler(type_, lasts)
    short, long = await queue.add_jobs([{"type": type_, "data": s, "ttr": 600} for s in (0.7, 60)])
    running = asyncio.create_task(queue.run_jobs(time_limit_s=0.5))
    assert (await short.wait(10)).state == "success"
    waiting = await queue.add_job(type_)
    (run,) = await queue.reserve(type_, wait_s=10)
    assert run.id == waiting.id
    await run.finish()
    assert (await queue.cancel(long.id)).count == 1
    await asyncio.wait_for(cancelled.wait(), 10)
    assert await asyncio.wait_for(running, 10) == 2
    assert (await long.wait(10)).state == "cancelled"


@pytest.mark.parametrize("queue", ["open", "connect"], indirect=True)  # as above
async def test_a_handler_hears_that_its_job_is_cancelled_also_once_it_was_removed(queue: kqs.Queue, type_: str) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def lasts(_data: Any) -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    queue.add_handler(type_, lasts)
    job = await queue.add_job(type_, ttr=600)
    running = asyncio.create_task(queue.run_jobs(time_limit_s=-1))
    await asyncio.wait_for(began.wait(), 10)
    queue.remove_handler(type_)
    assert await queue.job(job.id) is not None  # it has said meanwhile that it wants no more
    assert (await queue.cancel(job.id)).count == 1
    await asyncio.wait_for(cancelled.wait(), 10)
    assert (await job.wait(10)).state == "cancelled"
    running.cancel()
    await asyncio.wait([running])


async def test_failed_runs_count_and_a_failure_says_why(queue: kqs.Queue, type_: str) -> None:
    async def fails(_data: Any) -> None:
        raise OSError("no such image")

    queue.add_handler(type_, fails)
    job = await queue.add_job(type_, retries=1, retry_delay=0)
    assert await queue.run_jobs(2, 10) == 2
    ended = await job.wait(5)
    assert (ended.state, ended.failures) == ("fail", 2)
    assert "no such image" in str(ended.error)


@pytest.mark.parametrize(
    ("raised", "state"), [(kqs.Fail("never"), "fail"), (kqs.Again(), "retry"), (asyncio.CancelledError(), "retry")]
)
async def test_what_a_handler_raises_is_its_report(queue: kqs.Queue, type_: str, raised: BaseException, state: str) -> None:
    async def raises(_data: Any) -> None:
        raise raised

    queue.add_handler(type_, raises)
    job = await queue.add_job(type_)
    assert await queue.run_jobs() == 1
    known = await queue.job(job.id)
    assert known is not None
    assert known.state == state


async def test_plain_functions_run_in_threads_side_by_side(queue: kqs.Queue, type_: str) -> None:
    met = threading.Barrier(3)

    def meets(data: int) -> int:
        met.wait(10)
        return data

    queue.add_handler(type_, meets)
    jobs = await queue.add_jobs([{"type": type_, "data": n} for n in range(3)])
    assert await queue.run_jobs(3) == 3
    assert sorted([(await job.wait(5)).result for job in jobs]) == [0, 1, 2]


@pytest.mark.parametrize("queue", ["open", "connect"], indirect=True)  # it is cancelled, which no thread is
async def test_a_removed_handler_is_never_called_and_its_jobs_wait(queue: kqs.Queue, type_: str) -> None:
    called = asyncio.Event()

    async def calls(_data: Any) -> None:
        called.set()

    queue.add_handler(type_, calls)
    running = asyncio.create_task(queue.run_jobs(time_limit_s=30))
    assert (await (await queue.add_job(type_)).wait(10)).state == "success"
    assert queue.remove_handler(type_)
    assert not queue.remove_handler(type_)
    called.clear()
    job = await queue.add_job(type_)
    queue.add_handler(f"{type_}-other", done)
    assert (await (await queue.add_job(f"{type_}-other")).wait(10)).state == "success"
    known = await queue.job(job.id)
    assert known is not None
    assert (known.state, known.attempt, called.is_set()) == ("new", 0, False)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_type_has_one_handler(queue: kqs.Queue, type_: str) -> None:
    queue.add_handler(type_, done)
    with pytest.raises(HandlerError, match="two handlers"):
        queue.add_handler(type_, lambda data: data)


async def test_run_jobs_goes_on_once(queue: kqs.Queue, type_: str) -> None:
    queue.add_handler(type_, done)
    running = asyncio.create_task(queue.run_jobs(1, 30))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="goes on already"):
        await queue.run_jobs()
    await queue.add_job(type_)
    assert await running == 1


@pytest.mark.parametrize("queue", ["open", "connect"], indirect=True)  # it is cancelled, which no thread is
@pytest.mark.parametrize("limits", [(None, -1), (10, 30.0)])
async def test_a_cancelled_run_jobs_gives_back_what_runs(
    queue: kqs.Queue, type_: str, limits: tuple[int | None, float]
) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def lasts(_data: Any) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    queue.add_handler(type_, lasts)
    job = await queue.add_job(type_)
    running = asyncio.create_task(queue.run_jobs(*limits))
    await began.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    known = await queue.job(job.id)
    assert known is not None
    assert (known.state, known.interrupted, known.failures, known.ghosts, ended.is_set()) == ("retry", 1, 0, 0, True)


async def test_a_run_past_its_time_limit_is_cancelled_and_fails(queue: kqs.Queue, type_: str) -> None:
    cancelled = asyncio.Event()

    async def lasts(_data: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    queue.add_handler(type_, lasts)
    job = await queue.add_job(type_, auto_touch=True, time_limit=1, retries=0)
    assert await queue.run_jobs() == 1
    assert cancelled.is_set()
    ended = await job.wait(10)
    assert (ended.state, ended.ghosts) == ("fail", 0)


async def test_auto_touch_and_a_handlers_own_touch_keep_a_run(queue: kqs.Queue, type_: str) -> None:
    async def waits(_data: Any) -> str:
        await asyncio.sleep(2)
        return "late"

    async def touches(_data: Any, job: kqs.JobContext) -> str:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            assert job.touch()
            await asyncio.sleep(0.02)
        return "late"

    queue.add_handler(type_, waits)
    queue.add_handler(f"{type_}-by-itself", touches)
    one = await queue.add_job(type_, auto_touch=True, ttr=1.5)
    two = await queue.add_job(touches, None, ttr=1.5)
    assert await queue.run_jobs(2) == 2
    assert [(await job.wait(5)).result for job in (one, two)] == ["late", "late"]


@pytest.mark.parametrize("queue", ["open", "connect"], indirect=True)  # it is cancelled, which no thread is
async def test_a_cancelled_job_ends_its_handler(queue: kqs.Queue, type_: str) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def lasts(_data: Any) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    queue.add_handler(type_, lasts)
    job = await queue.add_job(type_)
    running = asyncio.create_task(queue.run_jobs(time_limit_s=-1))
    await began.wait()
    assert (await queue.cancel(job.id)).count == 1
    await asyncio.wait_for(cancelled.wait(), 10)
    running.cancel()
    await asyncio.wait([running])
    assert (await job.wait(10)).state == "cancelled"


async def test_progress_is_kept_shown_and_handed_to_the_next_run(queue: kqs.Queue, type_: str) -> None:
    async def saves(_data: Any, job: kqs.JobContext) -> Any:
        if job.progress is None:
            job.save({"page": 3})
            raise kqs.Again
        return job.progress

    queue.add_handler(type_, saves)
    job = await queue.add_job(type_)
    assert await queue.run_jobs() == 1
    known = await queue.job(job.id)
    assert known is not None
    assert known.progress == {"page": 3}
    assert await queue.run_jobs() == 1
    assert (await job.wait(5)).result == {"page": 3}


async def test_a_reserved_run_is_touched_and_reported(queue: kqs.Queue, type_: str) -> None:
    job = await queue.add_job(type_, {"n": 1})
    assert await queue.reserve(f"{type_}-none") == []
    (run,) = await queue.reserve(type_, wait_s=5)
    assert (run.id, run.type, run.data, run.attempt, run.failures, run.is_over) == (job.id, type_, {"n": 1}, 1, 0, False)
    assert 29 < await run.touch({"at": 1}) <= run.ttr
    await run.again()
    (run,) = await queue.reserve([type_], wait_s=5)
    assert run.progress == {"at": 1}
    await run.release("urgent", 0)
    (run,) = await queue.reserve(type_, wait_s=5)
    await run.fail("not today", delay=0)
    (run,) = await queue.reserve(type_, wait_s=5)
    assert run.failures == 1
    await run.finish({"n": 2})
    with pytest.raises(CallError) as late:
        await run.fail("too late")
    assert late.value.call_code == "stale"
    ended = await job.wait(5)
    assert (ended.result, ended.options["prio"], [one.state for one in ended.runs]) == (
        {"n": 2},
        8000,
        ["again", "interrupted", "fail", "success"],
    )


async def test_owners_have_a_hand_on_their_jobs(queue: kqs.Queue, type_: str) -> None:
    jobs = await queue.add_jobs([{"type": type_, "data": n} for n in range(4)])
    assert (await queue.cancel(type=type_, match="^[01]$")).count == 2
    assert [one.state async for one in queue.records(type=type_)] == ["cancelled", "cancelled", "new", "new"]
    assert (await queue.retry(jobs[0].id)).count == 1
    assert (await queue.delete([jobs[1].id])).count == 1
    assert await queue.job(jobs[1].id) is None
    assert await queue.suspend(type_)
    queue.add_handler(type_, done)
    assert await queue.run_jobs(-1) == 0
    assert "suspended" in (await queue.explain(jobs[2].id))["text"]
    assert await queue.resume(type_)
    assert await queue.run_jobs(1, 10) == 1
    assert await queue.purge(type_) == 2
    assert (await queue.health())["verdict"] is not None
    assert (await queue.stats())["jobCount"] >= 4
    assert isinstance(await queue.workers(), list)


async def test_events_tell_what_happens(queue: kqs.Queue, type_: str) -> None:
    heard: list[str] = []
    is_listening = asyncio.Event()

    async def listen() -> None:
        asyncio.get_running_loop().call_later(0, is_listening.set)
        async for event in queue.events(type_, events=["created", "started", "success"]):
            heard.append(event["event"])
            if event["event"] == "success":
                return

    listening = asyncio.create_task(listen())
    await is_listening.wait()
    await queue.stats()  # the listening call was sent before it
    queue.add_handler(type_, done)
    await queue.add_job(type_)
    await queue.run_jobs()
    await asyncio.wait_for(listening, 10)
    assert heard == ["created", "started", "success"]


async def test_several_handlers_hear_of_one_job(queue: kqs.Queue, type_: str) -> None:
    async def bill(data: int) -> int:
        return data + 1

    async def ship(data: int) -> int:
        return data + 2

    await queue.add_subscriber(type_, f"{type_}-bill", bill)
    await queue.add_subscriber(type_, f"{type_}-ship", ship)
    job = await queue.add_job(type_, 1)
    assert await queue.run_jobs(2, 10) == 2
    copies = (await job.wait(5)).result["copies"]
    ended = {name: await queue.job(copy) for name, copy in copies.items()}
    assert {name: one and one.result for name, one in ended.items()} == {f"{type_}-bill": 2, f"{type_}-ship": 3}


async def test_schedules_limits_and_options_are_set(queue: kqs.Queue, type_: str) -> None:
    name = f"s{abs(hash(type_))}"
    await queue.schedule(name, {"type": type_}, every=3600)
    fired = await queue.fire(name)
    assert (await queue.limit(type_, max_running=2))["max_running"] == 2
    assert (await queue.configure(type_, ttr=7)).options["ttr"] == 7
    job = await queue.add_job(type_)
    known = await queue.job(job.id)
    assert known is not None
    assert known.options["ttr"] == 7
    queue.add_handler(type_, done)
    assert await queue.run_jobs(2) == 2
    assert await queue.job(fired) is not None
    await queue.unschedule(name)


async def test_a_job_goes_wherever_an_id_does(queue: kqs.Queue, type_: str) -> None:
    first = await queue.add_job(type_)
    batch = await queue.open_batch({"type": f"{type_}-then", "after": [first]})
    second, *_ = await queue.add_jobs([{"type": type_, "after": [first], "batch": batch}])
    assert (await queue.explain(second))["awaits"] == [first.id]
    assert (await queue.close_batch(batch))["count"] == 1
    assert (await queue.cancel([first, second])).count == 2
    assert (await queue.delete(second)).count == 1
    record = await queue.job(first)
    assert record is not None
    assert (record.id, record.state) == (first.id, "cancelled")
    assert type(first.id) is str


async def test_a_job_runs_after_others_and_one_when_all_of_a_batch_have_ended(queue: kqs.Queue, type_: str) -> None:
    order: list[str] = []

    async def notes(data: str, job: kqs.JobContext) -> Any:
        order.append(data)
        if data == "bad":
            raise kqs.Fail("so it is")
        return job.batch

    queue.add_handler(type_, notes)
    first = await queue.add_job(type_, "first")
    second = await queue.add_job(type_, "second", after=[first.id], prio="urgent")
    known = await queue.job(second.id)
    assert known is not None
    assert (known.after, known.after_any_end, known.awaits) == ([first.id], False, [first.id])
    assert await queue.run_jobs(2, 10) == 2
    then = await queue.add_batch(
        [{"type": type_, "data": "good"}, {"type": type_, "data": "bad"}], {"type": type_, "data": "then"}
    )
    assert await queue.run_jobs(3, 10) == 3
    told = (await then.wait(5)).result
    assert (order[:2], sorted(order[2:4]), order[4:]) == (["first", "second"], ["bad", "good"], ["then"])
    assert told == {"id": then.id, "count": 2, "success": 1, "fail": 1, "cancelled": 0, "deleted": 0}


async def test_a_batch_tells_whether_there_was_none_yet(queue: kqs.Queue, type_: str) -> None:
    mine = {"type": type_, "id": uuid.uuid4().hex}
    keyed = {"type": type_, "unique": "k"}
    assert [(await queue.add_batch([], mine)).created for _ in range(2)] == [True, False]
    assert [(await queue.add_batch([{"type": f"{type_}.of"}], keyed)).created for _ in range(2)] == [True, False]
    assert [(await queue.open_batch({"type": type_})).created for _ in range(2)] == [True, True]
    with pytest.raises(CallError, match="unique") as caught:
        await queue.open_batch({**keyed, "on_conflict": "refuse"})
    assert caught.value.call_code == "duplicate"


async def test_a_batch_takes_jobs_until_it_is_closed(queue: kqs.Queue, type_: str) -> None:
    queue.add_handler(type_, done)
    then = await queue.open_batch({"type": type_})
    await queue.add_job(type_, batch=then.id)
    assert await queue.run_jobs(1, 10) == 1
    assert (await queue.close_batch(then.id))["open"] is False
    with pytest.raises(CallError, match="batch"):
        await queue.add_job(type_, batch=then.id)
    assert await queue.run_jobs(1, 10) == 1
    assert (await then.wait(5)).state == "success"


async def test_a_handler_that_ignores_its_cancellation_is_not_waited_for(queue: kqs.Queue, type_: str) -> None:
    may_end = asyncio.Event()

    async def deaf(_data: Any) -> None:
        while not may_end.is_set():
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                continue

    queue.add_handler(type_, deaf)
    job = await queue.add_job(type_, ttr=0.2, ghosts=0)
    assert await queue.run_jobs() == 1
    assert (await job.wait(10)).state == "fail"
    may_end.set()


@pytest.mark.parametrize("queue", ["open", "testing", "blocking open"], indirect=True)
async def test_options_of_a_handler_hold_in_a_queue_of_the_programs_own(queue: kqs.Queue, type_: str) -> None:
    async def fails(_data: Any) -> None:
        raise OSError("away")

    queue.add_handler(type_, fails, retries=0, prio="low")
    job = await queue.add_job(type_)
    assert await queue.run_jobs(1, 10) == 1
    record = await job.wait(5)
    assert (record.state, record.options["prio"]) == ("fail", 11000)
    assert queue.remove_handler(type_)
    later = await queue.job((await queue.add_job(type_)).id)
    assert later is not None
    assert later.options["retries"] == -1


@pytest.mark.parametrize("queue", ["connect", "blocking connect"], indirect=True)
async def test_options_that_cannot_reach_a_server_are_refused(queue: kqs.Queue, type_: str) -> None:
    with pytest.raises(kqs.HandlerError, match=f"handler '{re.escape(type_)}': retries: what a program says"):
        queue.add_handler(type_, lambda data: data, retries=0)
    assert not queue.remove_handler(type_)
    queue.add_handler(type_, lambda data: data, retry_delay=lambda failures: failures)


async def test_options_of_a_decorator_are_its_handlers(queue: kqs.Queue, type_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    monkeypatch.setattr("kqs.handlers.default_registry", registry)
    monkeypatch.setattr("kqs.library.running.default_registry", registry)

    @kqs.handler(type_, retry_delay=lambda failures: 0.0)
    async def tries(_data: Any, job: kqs.JobContext) -> int:
        if job.failures < 3:
            raise OSError("away")
        return job.failures

    queue.add_handler(type_, tries)
    job = await queue.add_job(type_, retries=5)
    assert await queue.run_jobs(4, 10) == 4
    assert await job.result(5) == 3
