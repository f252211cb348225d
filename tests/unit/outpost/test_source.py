"""What follows from what a server says for the lanes of a worker elsewhere, and what the server hears of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

import kqs.outpost.line
import kqs.outpost.open_runs
import kqs.outpost.orders
import kqs.outpost.reports
import kqs.outpost.source
import kqs.queue.leaving
from kqs.config import WorkerSection
from kqs.executor import Executor
from kqs.given import TOUCH_SHARE
from kqs.handlers import Registry
from kqs.outcome import Again, Failed, Ok, Outcome
from kqs.worker import Worker
from tests.support.turning import idle, until
from tests.unit.outpost.conftest import Post, a_run


async def test_it_asks_for_as_many_runs_as_there_is_room_for(post: Post) -> None:
    await post.start(room=5)
    assert await post.called("work") == [{"types": ["mail", "sms"], "room": 5, "worker": "me"}]


async def test_what_it_is_given_is_what_the_server_said(post: Post) -> None:
    await post.start()
    (run,) = await post.given(a_run(7, attempt=3, failures=1, ghosts=1, ttr=5.0, auto_touch=True, time_limit=9.0))
    lease = post.begin(run)
    context = lease.context
    assert (run.claim.id, run.type, run.data, context.attempt, context.failures, context.ghosts) == (
        "id-7", "mail", b'{"n": 7}', 3, 1, 1,
    )  # fmt: skip
    assert (lease.options.ttr, lease.options.auto_touch, lease.options.time_limit) == (5.0, True, 9.0)


async def test_reports_of_one_turn_are_one_call(post: Post) -> None:
    await post.start(room=5)
    runs = await post.given(*(a_run(n) for n in range(5)))
    outcomes: list[Outcome] = [Ok(), Ok(b'{"a":1}'), Again(2.5), Failed("no", final=True), Failed("soon", delay_s=9.0)]
    post.source.end(runs[0], outcomes[0])
    for run, outcome in zip(runs[1:], outcomes[1:], strict=True):
        assert post.source.report(post.begin(run), outcome)
    assert await post.called("finish") == [
        [
            {"run": "token-0", "report": "ok"},
            {"run": "token-1", "report": "ok", "result": {"a": 1}},
            {"run": "token-2", "report": "again", "delay": 2.5},
            {"run": "token-3", "report": "fail", "reason": "no", "final": True},
            {"run": "token-4", "report": "fail", "reason": "soon", "delay": 9.0},
        ]
    ]
    assert post.calls("work") == [{"types": ["mail", "sms"], "room": 5, "worker": "me"}]


async def test_a_run_that_is_taken_away_is_lost_by_its_lane_and_given_back(post: Post) -> None:
    await post.start()
    begun, waiting = await post.given(a_run(1), a_run(2))
    lease = post.begin(begun)
    post.tell({"cancel": "token-1"})
    post.tell({"cancel": "token-2"})
    post.tell({"cancel": "token-9"})
    await until(lambda: bool(post.lost) and not post.source.may_begin(waiting))
    assert post.lost == [lease]
    assert not lease.context.touch()
    assert not post.source.report(lease, Ok())
    assert not post.source.interrupt(lease)
    post.source.give_back(waiting)
    assert post.source.stale_count == 1
    assert await post.called("release") == [[{"run": "token-2", "begun": False}]]
    post.source.left(lease)
    post.source.left(lease)
    assert (await post.called("release", 2))[1] == [{"run": "token-1"}]
    await post.settled()
    assert len(post.calls("finish") + post.calls("release")) == 2


async def test_a_run_whose_handler_ignores_its_end_is_given_back_after_a_while(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kqs.queue.leaving, "LEAVE_S", 0.0)
    await post.start()
    (run,) = await post.given(a_run(1))
    lease = post.begin(run)
    post.tell({"cancel": "token-1"})
    assert await post.called("release") == [[{"run": "token-1"}]]
    post.source.left(lease)
    await post.settled()
    assert len(post.calls("release")) == 1


async def test_a_stop_gives_back_what_has_not_been_left(post: Post) -> None:
    await post.start()
    (run,) = await post.given(a_run(1))
    assert post.source.interrupt(post.begin(run))
    await post.settled()
    assert post.calls("release") == []
    await post.source.stop()
    assert await post.called("release") == [[{"run": "token-1"}]]


async def test_a_lost_connection_takes_all_runs_and_asks_again_on_the_next(post: Post) -> None:
    await post.start()
    (run,) = await post.given(a_run(1))
    lease = post.begin(run)
    with capture_logs() as logs:
        post.server.drop()
        await until(lambda: bool(post.lost))
    assert [line["count"] for line in logs if "with it its runs" in line["event"]] == [1]
    assert not post.source.report(lease, Ok())
    post.consumer.free()
    assert (await post.called("work", 2))[1]["room"] == 2


async def test_what_waits_for_a_lane_as_the_connection_is_lost_never_begins(post: Post) -> None:
    ran: list[int] = []
    begun = asyncio.Event()

    async def mail(data: dict[str, int]) -> None:
        ran.append(data["n"])
        begun.set()
        await asyncio.Event().wait()

    registry = Registry()
    registry.add("mail", mail)
    settings = WorkerSection(concurrency=1, grace_s=0)
    worker = Worker(post.source, registry, Executor(1, post.supervisor), settings, "me", post.supervisor)
    post.line.start()
    await worker.start()
    worker._consumer.grow(1)  # as if runs were short
    await post.called("work")
    post.tell([a_run(1), a_run(2)])
    async with asyncio.timeout(10):
        await begun.wait()
    post.server.drop()
    await until(lambda: worker._consumer.room == 2)
    assert ran == [1]
    await worker.stop()


async def test_a_report_without_an_answer_is_sent_again_on_the_next_connection(post: Post) -> None:
    await post.start()
    (run,) = await post.given(a_run(1))
    post.source.report(post.begin(run), Ok(b"5"))
    await post.called("finish")
    post.server.drop()
    first, second = await post.called("finish", 2)
    assert first == second == [{"run": "token-1", "report": "ok", "result": 5}]
    stopping = asyncio.create_task(post.source.stop())
    await post.settled()
    assert not stopping.done()
    post.answer("finish", [{"code": "stale", "message": "over"}])
    await stopping


async def test_a_stop_without_answers_is_bounded(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.outpost.source, "SETTLE_S", 0.01)
    await post.start()
    (run,) = await post.given(a_run(1))
    post.source.end(run, Ok())
    with capture_logs() as logs:
        await post.source.remove_consumer(post.consumer)
        await post.source.stop()
    assert [line["event"].split(":")[0] for line in logs] == [
        "the server does not say that it gives no more jobs",
        "stopping without the last reports",
    ]


async def test_what_was_on_its_way_as_it_stopped_asking_is_delivered(post: Post) -> None:
    await post.start()
    await post.called("work")
    removing = asyncio.create_task(post.source.remove_consumer(post.consumer))
    await post.called("withdraw")
    post.tell([a_run(1)])
    post.answer("work", None)
    post.answer("withdraw", True)
    await removing
    (run,) = post.runs
    post.source.give_back(run)
    assert await post.called("release") == [[{"run": "token-1", "begun": False}]]
    assert len(post.calls("work")) == 1


async def test_an_interrupted_run_is_given_back(post: Post) -> None:
    await post.start()
    (run,) = await post.given(a_run(1))
    lease = post.begin(run)
    assert post.source.interrupt(lease)
    assert not lease.context.touch()
    await post.settled()
    assert post.calls("release") == []
    post.source.left(lease)
    assert await post.called("release") == [[{"run": "token-1"}]]


async def test_a_call_that_is_refused_as_a_whole_is_repeated_one_by_one(post: Post) -> None:
    await post.start()
    for run in await post.given(a_run(1), a_run(2)):
        post.source.end(run, Ok(b"1"))
    await post.called("finish")
    post.refuse("finish", "too_large")
    _, first, second = await post.called("finish", 3)
    assert (first[0]["run"], second[0]["run"]) == ("token-1", "token-2")


async def test_a_result_that_the_server_does_not_take_is_a_failure_for_good(post: Post) -> None:
    await post.start()
    (run,) = await post.given(a_run(1))
    post.source.end(run, Ok(b"1"))
    await post.called("finish")
    post.answer("finish", [{"code": "too_large", "message": "16 MiB"}])
    _, ((instead),) = await post.called("finish", 2)
    reason = "the server refused the worker's report: 16 MiB"
    assert instead == {"run": "token-1", "report": "fail", "reason": reason, "final": True}
    with capture_logs() as logs:
        post.answer("finish", [{"code": "too_large", "message": "no"}])
        assert await post.source._reports.settle(10)
    assert [line["event"] for line in logs] == ["the server refuses the report of a failure"]


async def test_an_error_without_an_id_means_the_longest_line(post: Post) -> None:
    await post.start()
    first, second = await post.given(a_run(1), a_run(2))
    post.source.end(first, Ok(b'"%b"' % (b"x" * 300_000)))
    post.source.end(second, Ok(b'"%b"' % (b"x" * 300)))
    await post.called("finish", 2)
    post.server.calls[0][0].send({"v": 1, "e": {"_isError__": 1, "message": "long", "code": "too_large"}, "s": "err"})
    assert (await post.called("finish", 3))[2][0]["report"] == "fail"


async def test_a_server_that_cannot_take_a_report_now_is_told_again(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.outpost.reports, "AGAIN_S", 0.01)
    await post.start()
    (run,) = await post.given(a_run(1))
    post.source.end(run, Ok())
    await post.called("finish")
    post.refuse("finish", "busy")
    first, second = await post.called("finish", 2)
    assert first == second


async def test_long_results_and_many_reports_are_cut_into_calls(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.outpost.reports, "MAX_BYTES", 10)
    monkeypatch.setattr(kqs.outpost.reports, "MAX_MEMBERS", 3)
    await post.start(room=7)
    for n, run in enumerate(await post.given(*(a_run(n) for n in range(7)))):
        post.source.end(run, Ok(b'"123456"' if n < 3 else None))
    calls = await post.called("finish", 4)
    assert [len(call) for call in calls] == [1, 1, 3, 2]
    assert [report["run"] for call in calls for report in call] == [f"token-{n}" for n in range(7)]


async def test_a_report_makes_room_and_needs_no_further_order(post: Post) -> None:
    await post.start(room=1)
    for number in range(5):
        (run,) = await post.given(a_run(number))
        post.source.end(run, Ok())
        post.consumer.free()
        await post.called("finish", number + 1)
    assert len(post.calls("work")) == 1


async def test_more_room_is_another_order_and_less_is_one_in_the_place_of_all(post: Post) -> None:
    await post.start(room=2)
    await post.called("work")
    post.consumer.grow(3)
    post.source._note()
    assert [call["room"] for call in await post.called("work", 2)] == [2, 3]
    post.consumer.grow(-4)
    post.source._note()
    assert (await post.called("work", 3))[2]["room"] == 1
    assert len(post.calls("withdraw")) == 2


async def test_small_changes_of_what_is_claimed_ahead_are_let_be(post: Post) -> None:
    await post.start(room=100)
    await post.called("work")
    post.consumer.worth = 20
    for change in (10, -25, 5):
        post.consumer.grow(change)
        post.source._note()
        await post.settled()
    assert len(post.calls("work")) == 1


async def test_a_run_that_was_taken_away_makes_room_only_with_its_lane(post: Post) -> None:
    await post.start(room=1)
    (run,) = await post.given(a_run(1))
    lease = post.begin(run)
    post.tell({"cancel": "token-1"})
    await post.called("withdraw")  # its handler has not ended, and the server believes in room for another
    post.tell([a_run(2)])  # which was on its way
    assert await post.called("release") == [[{"run": "token-2", "begun": False}]]
    assert len(post.runs) == 1
    post.source.left(lease)
    post.consumer.free()
    assert (await post.called("work", 2))[1]["room"] == 1
    assert (await post.called("release", 2))[1] == [{"run": "token-1"}]


async def test_room_beyond_what_an_order_may_have_is_several(post: Post) -> None:
    await post.start(room=25_000)
    assert [call["room"] for call in await post.called("work", 3)] == [10_000, 10_000, 5_000]


async def test_of_too_many_orders_one_is_made(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.outpost.orders, "MAX_LIVE", 2)
    await post.start(room=1)
    await post.called("work")
    for count in (2, 3):
        post.consumer.grow(1)
        post.source._note()
        await post.called("work", count)
    assert [call["room"] for call in post.calls("work")] == [1, 1, 3]


@pytest.mark.parametrize("refused", [True, False])
async def test_a_server_that_gives_nothing_is_asked_again_later(
    post: Post, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    monkeypatch.setattr(kqs.outpost.orders, "AGAIN_S", 0.05)
    await post.start()
    await post.called("work")
    with capture_logs() as logs:
        if refused:
            post.refuse("work", "draining")
        else:
            post.answer("work", None)
        await post.called("work", 2)
    assert [line["code"] for line in logs] == (["draining"] if refused else [])


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.outpost.open_runs, "LONGEST_LOOK_S", 0.01)


async def passes(post: Post, seconds: float) -> None:
    """Let time pass, and touches be looked for, which go out."""
    post.clock.advance(seconds)
    open_runs = post.source._open_runs
    before = open_runs._timer
    await until(lambda: open_runs._timer is not before)  # a look sets the timer of the next
    await post.settled()


@pytest.mark.usefixtures("looking")
async def test_a_silent_handler_is_not_touched_for(post: Post) -> None:
    await post.start()
    (run,) = await post.given(a_run(1, ttr=30.0))
    post.begin(run)
    await passes(post, 29)
    assert post.calls("touch") == []


@pytest.mark.usefixtures("looking")
async def test_touches_of_many_go_out_together_once_in_a_third_of_the_ttr(post: Post) -> None:
    await post.start()
    leases = [post.begin(run) for run in await post.given(a_run(1, ttr=30.0), a_run(2, ttr=30.0))]
    for _ in range(9):
        post.clock.advance(1)
        for lease in leases:
            assert lease.context.touch()
    await passes(post, 0)
    assert post.calls("touch") == []
    await passes(post, 1)
    assert post.calls("touch") == [[{"run": "token-1"}, {"run": "token-2"}]]
    await passes(post, 19)
    assert len(post.calls("touch")) == 1


@pytest.mark.usefixtures("looking")
async def test_it_touches_for_who_asks_for_it_and_for_what_waits_for_its_lane(post: Post) -> None:
    await post.start()
    auto, _waiting = await post.given(a_run(1, ttr=30.0, auto_touch=True), a_run(2, ttr=30.0))
    post.begin(auto)
    for count in (1, 2, 3):
        await passes(post, 10)
        assert post.calls("touch") == [[{"run": "token-1"}, {"run": "token-2"}]] * count


async def test_the_least_ttr_is_looked_after_in_time(post: Post) -> None:
    await post.start()
    await post.given(a_run(1, ttr=300.0), a_run(2, ttr=0.1, auto_touch=True))
    timer = post.source._open_runs._timer
    assert timer is not None
    assert timer.when() - asyncio.get_running_loop().time() < 0.1 / TOUCH_SHARE / 2


async def test_a_run_that_begins_late_has_its_whole_ttr(post: Post) -> None:
    await post.start()
    late, soon = await post.given(a_run(1, ttr=30.0), a_run(2, ttr=300.0))
    post.clock.advance(5)
    post.begin(late)
    post.begin(soon)
    assert await post.called("touch") == [[{"run": "token-1"}]]


async def test_a_touch_that_comes_too_late_loses_the_run(post: Post) -> None:
    await post.start()
    (run,) = await post.given(a_run(1, ttr=30.0))
    post.clock.advance(5)
    post.begin(run)
    await post.called("touch")
    post.answer("touch", [{"code": "stale", "message": "over"}])
    await until(lambda: bool(post.lost))


@pytest.mark.usefixtures("looking")
@pytest.mark.parametrize("fields", [{"ttr": 5.0}, {"time_limit": 5.0, "auto_touch": True}])
async def test_a_run_that_the_server_must_have_given_up_is_lost_without_its_word(post: Post, fields: dict[str, Any]) -> None:
    await post.start()
    (run,) = await post.given(a_run(1, **fields))
    lease = post.begin(run)
    await passes(post, 5.4)
    assert post.lost == []
    await passes(post, 0.2)
    assert post.lost == [lease]


async def test_room_of_a_run_that_was_lost_before_it_began_is_asked_for(post: Post) -> None:
    await post.start(room=3)
    (run,) = await post.given(a_run(1))
    post.tell({"cancel": "token-1"})
    assert [call["room"] for call in await post.called("work", 2)] == [3, 2]
    assert not post.source.may_begin(run)
    post.consumer.free()
    assert [call["room"] for call in await post.called("work", 3)] == [3, 2, 1]


async def test_a_touch_that_is_refused_otherwise_changes_nothing(post: Post) -> None:
    await post.start()
    (run,) = await post.given(a_run(1, ttr=30.0))
    post.clock.advance(5)
    post.begin(run)
    await post.called("touch")
    post.refuse("touch", "busy")
    await post.settled()
    assert post.source.may_begin(run)


async def test_runs_end_while_nothing_is_connected(post: Post) -> None:
    await post.start()
    (run,) = await post.given(a_run(1, ttr=30.0))
    post.clock.advance(5)
    post.server.drop()
    post.begin(run)
    await until(lambda: bool(post.lost))
    await idle()


async def reconnected(post: Post) -> None:
    """Return when the connection was lost, and there is another."""
    orders = len(await post.called("work"))
    post.server.drop()
    await post.called("work", orders + 1)


@pytest.mark.parametrize("hold", [False, True])
async def test_whoever_reads_of_a_lost_connection_reads_of_the_next(post: Post, holding: Post, *, hold: bool) -> None:
    one = holding if hold else post
    with capture_logs() as logs:
        await one.start(room=9)
        for number in range(3):  # soon after each other, so that the trouble itself is told once
            await one.given(a_run(number))
            await reconnected(one)
    told = [log["event"] for log in logs if log["event"].startswith(("connected", "the connection was lost"))]
    lost = "the connection was lost, its runs are held and go on" if hold else "the connection was lost, and with it its runs"
    assert told == ["connected", *[lost, "connected"] * 3]


async def test_of_a_loss_that_costs_nothing_and_is_soon_over_nothing_is_told_again(post: Post) -> None:
    with capture_logs() as logs:
        await post.start()
        for _ in range(3):
            await reconnected(post)
    assert [log["event"] for log in logs] == ["connected", "no server answers, trying again", "connected"]


async def test_held_runs_go_on_over_a_lost_connection_and_new_ones_are_asked_for_beside_them(holding: Post) -> None:
    await holding.start(room=3)
    begun, waiting = await holding.given(a_run(1), a_run(2))
    lease = holding.begin(begun)
    await reconnected(holding)
    asked = {"types": ["mail", "sms"], "worker": "me", "hold": True}
    assert holding.calls("work") == [asked | {"room": 3}, asked | {"room": 1}]
    assert holding.lost == []
    assert holding.source.report(lease, Ok())
    assert holding.source.may_begin(waiting)
    assert await holding.called("finish") == [[{"run": "token-1", "report": "ok"}]]


async def test_what_was_said_of_held_runs_while_nothing_is_connected_is_said_on_the_next_connection(holding: Post) -> None:
    await holding.start(room=3)
    first, second, third = await holding.given(a_run(1), a_run(2), a_run(3))
    holding.server.drop()
    await until(lambda: not holding.line.is_open)
    holding.source.end(first, Ok())
    lease = holding.begin(second)
    assert holding.source.interrupt(lease)
    holding.source.left(lease)
    holding.source.give_back(third)
    assert await holding.called("release") == [[{"run": "token-2"}, {"run": "token-3", "begun": False}]]
    assert await holding.called("finish") == [[{"run": "token-1", "report": "ok"}]]


async def test_a_held_run_is_given_back_again_until_that_is_answered(holding: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.outpost.reports, "AGAIN_S", 0.01)
    await holding.start()
    (run,) = await holding.given(a_run(1))
    holding.source.give_back(run)
    await holding.called("release")
    holding.server.drop()
    await holding.called("release", 2)
    holding.refuse("release", "busy")
    assert await holding.called("release", 3) == [[{"run": "token-1", "begun": False}]] * 3
    stopping = asyncio.create_task(holding.source.stop())
    await holding.settled()
    assert not stopping.done()
    holding.answer("release", [{"code": "stale", "message": "over"}])
    await stopping
    assert holding.source.untaken_count == 0


@pytest.mark.usefixtures("looking")
async def test_touches_that_make_too_long_a_line_are_sent_in_shorter_ones(post: Post) -> None:
    await post.start()
    for run in await post.given(a_run(1, ttr=30.0), a_run(2, ttr=30.0)):
        post.begin(run).context.touch()
    post.clock.advance(10)
    post.source._open_runs.touch(["token-1", "token-2"])
    await post.called("touch")
    post.refuse("touch", "too_large")
    assert (await post.called("touch", 3))[1:] == [[{"run": "token-1"}], [{"run": "token-2"}]]
    post.refuse("touch", "too_large")
    await post.settled()
    assert len(post.calls("touch")) == 3


async def test_releases_that_make_too_long_a_line_are_sent_in_shorter_ones(post: Post) -> None:
    await post.start()
    for run in await post.given(a_run(1), a_run(2)):
        post.source.give_back(run)
    await post.called("release")
    post.refuse("release", "too_large")
    released = (await post.called("release", 3))[1:]
    assert [[one["run"] for one in part] for part in released] == [["token-1"], ["token-2"]]


async def test_held_runs_are_touched_as_soon_as_there_is_a_connection_again(holding: Post) -> None:
    await holding.start(room=4)
    runs = await holding.given(a_run(1, ttr=9.0, auto_touch=True), a_run(2, ttr=9.0), a_run(3, ttr=9.0), a_run(4, ttr=9.0))
    _auto, touching, _silent = [holding.begin(run) for run in runs[:3]]
    holding.clock.advance(1)
    assert touching.context.touch()
    holding.server.drop()
    (touched, *_) = await holding.called("touch")
    assert touched == [{"run": "token-1"}, {"run": "token-2"}, {"run": "token-4"}]


@pytest.mark.usefixtures("looking")
async def test_a_held_run_has_its_time_anew_with_each_connection_and_none_passes_without(holding: Post) -> None:
    await holding.start(room=2)
    silent, limited = await holding.given(a_run(1, ttr=5.0), a_run(2, time_limit=5.0, auto_touch=True))
    leases = [holding.begin(silent), holding.begin(limited)]
    holding.server.drop()
    await until(lambda: not holding.line.is_open)
    holding.clock.advance(100)
    await holding.called("touch")
    await passes(holding, 5.4)
    assert holding.lost == []
    await passes(holding, 0.2)
    assert holding.lost == leases


async def test_a_held_run_that_was_lost_meanwhile_is_told_by_its_touch(holding: Post) -> None:
    await holding.start()
    (run,) = await holding.given(a_run(1, auto_touch=True))
    lease = holding.begin(run)
    holding.server.drop()
    await holding.called("touch")
    holding.answer("touch", [{"code": "stale", "message": "over"}])
    await until(lambda: bool(holding.lost))
    assert not holding.source.report(lease, Ok())


async def test_a_server_of_another_store_ends_no_held_run_and_is_told_of(holding: Post) -> None:
    await holding.start()
    (run,) = await holding.given(a_run(1, auto_touch=True))
    lease = holding.begin(run)
    unknown = [{"code": "bad_call", "message": "run: expected the token of a run"}]
    with capture_logs() as logs:
        holding.server.drop()
        await holding.called("touch")
        holding.answer("touch", unknown)
        await holding.settled()
        assert holding.source.report(lease, Ok())
        for count in (1, 2):  # as a success, and as a failure
            await holding.called("finish", count)
            holding.answer("finish", unknown)
        assert await holding.source._reports.settle(10)
    assert holding.lost == []
    told = [(line["event"], line.get("run")) for line in logs if line["event"].startswith("the server")]
    assert told == [
        ("the server does not know runs: it is of another store", "token-1"),
        ("the server refuses a report, a failure is reported in its place", "token-1"),
        ("the server does not know a run, its report is lost", "token-1"),
    ]


async def test_a_silent_server_counts_as_gone(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.outpost.line, "BEAT_S", 0.01)
    await post.start()
    await post.called("ping", 2)
    assert (await post.called("work", 2))[1]["room"] == 2  # on the next connection


async def test_one_that_answers_does_not(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.outpost.line, "BEAT_S", 0.01)
    await post.start()
    for count in range(1, 6):
        await post.called("ping", count)
        post.answer("ping", "pong")
    assert len(post.calls("work")) == 1


async def test_a_server_that_closes_at_once_is_not_asked_without_end(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    at: dict[Any, float] = {}
    loop = asyncio.get_running_loop()

    def turn_away(peer: Any, line: Any) -> None:
        at.setdefault(peer, loop.time())
        peer.send({"v": 1, "e": {"_isError__": 1, "message": "full", "code": "busy"}, "s": "err"})

    monkeypatch.setattr(post.server, "take", turn_away)
    await post.start()
    await until(lambda: len(at) == 4)
    times = list(at.values())
    assert times[3] - times[2] > 0.05


async def test_one_that_was_there_is_tried_for_at_once_when_it_goes(post: Post) -> None:
    loop = asyncio.get_running_loop()
    await post.start()
    for count in range(1, 8):
        await post.given(a_run(count))
        began_at = loop.time()
        post.server.drop()
        post.consumer.free()
        await post.called("work", count + 1)
    assert loop.time() - began_at < 1.0  # without it: at least 1.6 s by then


async def test_what_is_no_answer_ends_the_connection(post: Post) -> None:
    await post.start()
    await post.called("work")
    post.server.calls[0][0].transport.write(b"HTTP/1.1 400 Bad Request\n")
    await post.called("work", 2)


async def test_a_bug_in_what_takes_an_answer_is_a_fault(post: Post) -> None:
    await post.start()
    await post.called("work")
    post.consumer.deliver = None  # type: ignore[assignment]  # that is the fault
    post.tell([a_run(1)])
    name, error = await post.supervisor.told()
    assert (name, type(error)) == ("line", TypeError)


async def test_it_hears_of_cancellations_while_it_asks_for_nothing(post: Post) -> None:
    await post.start()
    assert await post.called("listen") == [{"room": 0, "worker": "me"}]
    begun, waiting = await post.given(a_run(1), a_run(2))
    lease = post.begin(begun)
    removing = asyncio.create_task(post.source.remove_consumer(post.consumer))
    await post.called("withdraw")
    post.answer("work", None)
    post.answer("withdraw", True)
    await removing
    post.tell({"cancel": "token-1"}, name="listen")
    post.tell({"cancel": "token-2"}, name="listen")
    await until(lambda: post.lost == [lease] and not post.source.may_begin(waiting))
    assert await post.called("release") == [[{"run": "token-2", "begun": False}]]
    post.source.left(lease)
    assert (await post.called("release", 2))[1] == [{"run": "token-1"}]
    assert len(post.calls("listen")) == 1


async def test_it_listens_on_each_connection_for_runs_that_it_holds(holding: Post) -> None:
    await holding.start()
    (run,) = await holding.given(a_run(1))
    lease = holding.begin(run)
    removing = asyncio.create_task(holding.source.remove_consumer(holding.consumer))
    await holding.called("withdraw")
    holding.server.drop()
    await removing
    assert (await holding.called("listen", 2))[1] == {"room": 0, "worker": "me", "hold": True}
    holding.tell({"cancel": "token-1"}, name="listen")
    await until(lambda: holding.lost == [lease])


async def test_a_server_that_knows_no_such_call_is_asked_once_a_connection(post: Post) -> None:
    await post.start()
    await post.called("listen")
    with capture_logs() as logs:
        post.refuse("listen", "bad_call")
        (run,) = await post.given(a_run(1))
        post.begin(run)
        await post.settled()
    assert logs == []
    assert len(post.calls("listen")) == len(post.calls("work")) == 1
