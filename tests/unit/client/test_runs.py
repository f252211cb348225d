"""The worker's calls of the client, against a server that says what the test wants."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import Raw

from kqs.client import Client, ConnectionLostError, Report, Run
from kqs.errors import CallError
from tests.support.line_server import LineServer
from tests.support.turning import started, until


def a_run(number: int = 1, **fields: Any) -> dict[str, Any]:
    run = {"run": f"token-{number}", "id": f"id-{number}", "type": "mail", "data": {"n": number}}
    return run | {"attempt": 1, "failures": 0, "ghosts": 0, "ttr": 30.0} | fields


def tell(server: LineServer, index: int, event: Any) -> None:
    """Send an intermediate answer to the call that came as number `index`."""
    peer, line = server.calls[index]
    peer.send({"v": 1, "id": line["id"], "e": None, "s": "ok", "m": event})


def called(lines: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [(line["n"], line["m"]) for line in lines]


@pytest.fixture
async def client(server: LineServer) -> AsyncIterator[Client]:
    async with Client(server.address, timeout_s=10) as client:
        yield client


async def test_reserve_returns_runs_with_their_data(server: LineServer, client: Client) -> None:
    asking = await started(client.reserve(["mail"], 5, 60, worker="me"))
    assert called(await server.got(1)) == [("reserve", {"types": ["mail"], "count": 5, "wait": 60, "worker": "me"})]
    server.answer(0, [a_run(1, auto_touch=True, progress=[1, {}]), a_run(2, time_limit=5.0)])
    first, second = await asking
    assert (first.token, first.id, first.data, first.auto_touch, first.time_limit) == ("token-1", "id-1", {"n": 1}, True, None)
    assert (first.progress, second.progress) == ([1, {}], None)
    assert (json.loads(bytes(second.raw)), second.ttr, second.time_limit, second.is_over) == ({"n": 2}, 30.0, 5.0, False)


@pytest.mark.parametrize("wait_s", [10**400, -1, math.nan, math.inf, True, "1", None])
async def test_a_reserve_that_waits_for_no_number_of_seconds_is_refused_by_name(client: Client, wait_s: float) -> None:
    with pytest.raises(ValueError, match="wait_s: expected a number of seconds"):
        await client.reserve(["t"], wait_s=wait_s)


async def test_a_cancelled_reserve_gives_back_what_was_on_its_way(server: LineServer, client: Client) -> None:
    asking = await started(client.reserve(["mail"], wait_s=60))
    (line,) = await server.got(1)
    asking.cancel()
    await asyncio.wait([asking])
    assert called(await server.got(2))[1] == ("withdraw", {"call": line["id"]})
    server.answer(0, [a_run(1), a_run(2)])
    assert called(await server.got(3))[2] == (
        "release",
        [{"run": "token-1", "begun": False}, {"run": "token-2", "begun": False}],
    )


async def test_so_does_one_whose_answer_came_as_it_was_cancelled(server: LineServer, client: Client) -> None:
    asking = asyncio.create_task(client.reserve(["mail"], wait_s=60))
    await server.got(1)
    took = client._calls._standing[1].ended
    took(Raw(b'[{"run":"token-1","id":"a","type":"mail","data":1,"attempt":1,"failures":0,"ghosts":0,"ttr":30}]'))
    asking.cancel()
    await asyncio.wait([asking])
    assert ("release", [{"run": "token-1", "begun": False}]) in called(await server.got(3))


async def test_so_does_one_whose_answer_came_as_its_time_was_over(server: LineServer) -> None:
    async with Client(server.address, timeout_s=0.05) as client:
        asking = await started(client.reserve(["mail"]))
        await server.got(1)
        loop = asyncio.get_running_loop()
        is_over_at = loop.time() + 0.05
        while loop.time() < is_over_at:  # so that both are due in one turn of the loop
            pass
        raw = Raw(b'[{"run":"token-1","id":"a","type":"mail","data":1,"attempt":1,"failures":0,"ghosts":0,"ttr":30}]')
        loop.call_soon(client._calls._standing[1].ended, raw)
        with pytest.raises(TimeoutError):
            await asking
        assert ("release", [{"run": "token-1", "begun": False}]) in called(await server.got(3))


async def test_a_reserve_without_an_answer_ends_in_time_and_takes_nothing(server: LineServer) -> None:
    async with Client(server.address, timeout_s=0.05) as client:
        with pytest.raises(TimeoutError):
            await client.reserve(["mail"])
        assert called(await server.got(2))[1][0] == "withdraw"


async def test_one_that_was_never_sent_is_forgotten(server: LineServer) -> None:
    async with Client(server.address, timeout_s=0.05) as client:
        server.stop()
        with pytest.raises(ConnectionLostError):
            await client.call("ping")
        with pytest.raises(ConnectionLostError, match="could not be reached again"):
            await client.reserve(["mail"])
        assert not client._calls._standing


async def test_work_gives_runs_as_they_come_until_the_server_ends_it(server: LineServer, client: Client) -> None:
    async with client.work(["mail"], room=3, worker="me") as work:
        assert called(await server.got(1)) == [("work", {"types": ["mail"], "room": 3, "worker": "me"})]
        tell(server, 0, [a_run(1), a_run(2)])
        tell(server, 0, [a_run(3)])
        server.answer(0, None)
        got = [run.id async for run in work]
    assert got == ["id-1", "id-2", "id-3"]


async def test_all_that_are_there_can_be_taken_at_once(server: LineServer, client: Client) -> None:
    async with client.work(["mail"], room=3) as work:
        await server.got(1)
        taking = await started(work.take())
        tell(server, 0, [a_run(1), a_run(2)])
        assert [run.id for run in await taking] == ["id-1", "id-2"]


async def test_a_run_that_is_taken_away_is_told_to_whoever_has_it(server: LineServer, client: Client) -> None:
    over: list[Run] = []
    client.on_over = over.append
    async with client.work(["mail"], room=3) as work:
        await server.got(1)
        tell(server, 0, [a_run(1), a_run(2), a_run(3)])
        run = await anext(work)
        tell(server, 0, {"cancel": "token-1"})
        tell(server, 0, {"cancel": "token-2"})
        tell(server, 0, {"cancel": "token-unknown"})
        await until(lambda: len(over) == 2)
        assert (await anext(work)).id == "id-3"  # the second was over before anybody took it
    assert over[0] is run
    assert run.is_over


async def test_a_lost_connection_ends_the_order_and_its_runs(server: LineServer, client: Client) -> None:
    over: list[Run] = []
    client.on_over = over.append
    async with client.work(["mail"], room=3) as work:
        await server.got(1)
        tell(server, 0, [a_run(1), a_run(2)])
        run, _ = await anext(work), await anext(work)
        server.drop()
        with pytest.raises(ConnectionLostError):
            await anext(work)
    assert run.is_over
    assert run in over
    async with client.work(["mail"], room=3) as work:  # waits for the next connection
        await server.got(2)
        tell(server, 1, [a_run(4)])
        assert (await anext(work)).id == "id-4"


async def test_held_runs_stay_over_a_lost_connection(server: LineServer, client: Client) -> None:
    async with client.work(["mail"], room=3, worker="me", hold=True) as work:
        assert called(await server.got(1)) == [("work", {"types": ["mail"], "room": 3, "worker": "me", "hold": True})]
        tell(server, 0, [a_run(1), a_run(2)])
        first = await anext(work)
        server.drop()
        second = await anext(work)
        with pytest.raises(ConnectionLostError):
            await anext(work)
    assert (first.is_held, first.is_over, second.is_over) == (True, False, False)
    asking = await started(client.reserve(["mail"], worker="me", hold=True))
    assert called(await server.got(2))[1] == (
        "reserve",
        {"types": ["mail"], "count": 1, "wait": 0.0, "worker": "me", "hold": True},
    )
    server.answer(1, [a_run(3)])
    (third,) = await asking
    saying = await started(client.finish(first))
    assert called(await server.got(3))[2][1][0]["run"] == "token-1"
    server.answer(2, [True])
    await saying
    assert third.is_held


async def test_an_order_that_is_left_gives_back_what_nobody_took(server: LineServer, client: Client) -> None:
    async with client.work(["mail"], room=3) as work:
        (line,) = await server.got(1)
        tell(server, 0, [a_run(1), a_run(2)])
        await anext(work)
    assert called(await server.got(3))[1:] == [
        ("withdraw", {"call": line["id"]}),
        ("release", [{"run": "token-2", "begun": False}]),
    ]
    tell(server, 0, [a_run(3)])
    assert called(await server.got(4))[3] == ("release", [{"run": "token-3", "begun": False}])


async def test_a_refused_order_raises_its_code(server: LineServer, client: Client) -> None:
    async with client.work(["mail"]) as work:
        await server.got(1)
        peer, line = server.calls[0]
        peer.send({"v": 1, "id": line["id"], "e": {"_isError__": 1, "message": "no", "code": "draining"}, "s": "err"})
        with pytest.raises(CallError, match="no") as caught:
            await anext(work)
    assert caught.value.call_code == "draining"


async def test_an_error_without_an_id_ends_what_stands(server: LineServer, client: Client) -> None:
    async with client.work(["mail"]) as work:
        await server.got(1)
        peer, _ = server.calls[0]
        peer.send({"v": 1, "e": {"_isError__": 1, "message": "a long line", "code": "too_large"}, "s": "err"})
        with pytest.raises(CallError, match="a long line"):
            await anext(work)


async def test_standing_calls_take_no_place_of_others(server: LineServer) -> None:
    async with Client(server.address, max_in_flight=1) as client, client.work(["mail"]), client.work(["mail"]):
        asking = await started(client.call("ping"))
        await server.got(3)
        server.answer(2, "pong")
        assert await asking == "pong"


async def test_a_closed_client_ends_what_stands(server: LineServer) -> None:
    client = Client(server.address)
    await client.open()
    async with client.work(["mail"]) as work:
        await client.close()
        with pytest.raises(ConnectionLostError, match="closed"):
            await anext(work)
    with pytest.raises(ConnectionLostError, match="not open"):
        await client.reserve(["mail"])


async def test_each_report_says_what_it_is_given() -> None:
    answers = {"finish": [True], "touch": [{"left": 29.5, "cancel": False}], "release": True}
    async with LineServer(lambda line: answers[line["n"]]) as server, Client(server.address) as client:
        run = Run("token-1", "id-1", "mail", Raw(b"1"), 1, 0, 0, 30.0)
        assert await client.touch(run) == 29.5
        assert await client.touch(run, progress={"page": 3}) == 29.5
        assert await client.touch("token-2", progress=None) == 29.5
        await client.finish(run, {"a": 1})
        await client.finish("token-2")
        await client.fail(run, "no", final=True)
        await client.fail(run, "not yet", delay=5)
        await client.again(run, 2.5)
        await client.release(run)
        await client.release(run, 60)
        await client.release(run, prio="low")
        await client.release(run, begun=False)
        assert called(await server.got(12)) == [
            ("touch", [{"run": "token-1"}]),
            ("touch", [{"run": "token-1", "progress": {"page": 3}}]),
            ("touch", [{"run": "token-2", "progress": None}]),
            ("finish", [{"run": "token-1", "report": "ok", "result": {"a": 1}}]),
            ("finish", [{"run": "token-2", "report": "ok"}]),
            ("finish", [{"run": "token-1", "report": "fail", "reason": "no", "final": True}]),
            ("finish", [{"run": "token-1", "report": "fail", "reason": "not yet", "delay": 5}]),
            ("finish", [{"run": "token-1", "report": "again", "delay": 2.5}]),
            ("release", {"run": "token-1"}),
            ("release", {"run": "token-1", "delay": 60}),
            ("release", {"run": "token-1", "prio": "low"}),
            ("release", {"run": "token-1", "begun": False}),
        ]


async def test_a_stale_report_or_touch_raises_that() -> None:
    stale = [{"code": "stale", "message": "the run is over"}]
    async with LineServer(lambda line: stale) as server, Client(server.address) as client:
        run = Run("token-1", "id-1", "mail", Raw(b"1"), 1, 0, 0, 30.0)
        client.note_runs([run])
        for saying in (client.touch(run), client.finish(run)):
            with pytest.raises(CallError, match="the run is over") as caught:
                await saying
            assert caught.value.call_code == "stale"
        assert run.is_over


async def test_many_are_reported_in_one_line_each_with_its_own_answer() -> None:
    answers = [True, {"code": "stale", "message": "over"}, {"code": "of_a_newer_server", "message": "what"}]
    async with LineServer(lambda line: answers) as server, Client(server.address) as client:
        first, second, third = await client.finish_many([Report(f"token-{n}", "ok") for n in range(3)])
    assert first is None
    assert (second and second.call_code, str(second)) == ("stale", "over")
    assert (third and third.call_code, str(third)) == ("internal", "of_a_newer_server: what")


async def test_a_report_whose_answer_was_lost_is_sent_again(server: LineServer, client: Client) -> None:
    saying = await started(client.finish("token-1", 5))
    await server.got(1)
    server.drop()
    first, second = await server.got(2)
    assert first["m"] == second["m"]
    server.answer(1, [True])
    await saying


async def test_types_are_a_list(client: Client) -> None:
    with pytest.raises(ValueError, match="types: expected a list of names, got 'mail'"):
        await client.reserve("mail")
    with pytest.raises(ValueError, match="types: expected a list"):
        client.work("mail")


async def test_nothing_is_left_standing_of_a_call_with_a_wait_that_is_none(client: Client) -> None:
    with pytest.raises(ValueError, match="wait_s"):
        await client.reserve(["mail"], wait_s="long")  # type: ignore[arg-type]  # as a checker says too
    assert not client._calls._standing


async def test_an_order_is_taken_from_only_while_it_stands_and_may_be_made_again(server: LineServer, client: Client) -> None:
    work = client.work(["mail"])
    with pytest.raises(RuntimeError, match="async with"):
        await anext(work)
    for number in (0, 1):
        async with work:
            await until(lambda: [line["n"] for _, line in server.calls].count("work") > number)  # noqa: B023 - in this round
            index = [at for at, (_, line) in enumerate(server.calls) if line["n"] == "work"][number]
            tell(server, index, [a_run(number)])
            assert (await anext(work)).id == f"id-{number}"
            server.answer(index, None)
            assert [run async for run in work] == []
    with pytest.raises(RuntimeError, match="async with"):
        await work.take()


async def test_one_that_is_made_again_at_once_is_not_ended_with_the_last(server: LineServer, client: Client) -> None:
    work = client.work(["mail"])
    async with work:
        await server.got(1)
    async with work:
        assert [name for name, _ in called(await server.got(3))] == ["work", "withdraw", "work"]
        tell(server, 0, [a_run(1)])  # on its way as that was left
        server.answer(0, None)
        tell(server, 2, [a_run(2)])
        assert (await anext(work)).id == "id-2"
        assert called(await server.got(4))[3] == ("release", [{"run": "token-1", "begun": False}])


async def test_so_it_is_with_events(server: LineServer, client: Client) -> None:
    events = client.events()
    async with events:
        await server.got(1)
    async with events:
        await server.got(3)
        tell(server, 0, {"event": "created", "id": "before"})
        server.answer(0, None)
        tell(server, 2, {"event": "created", "id": "after"})
        assert (await anext(events))["id"] == "after"


async def test_a_fault_of_who_is_told_of_a_lost_run_harms_nothing(server: LineServer, client: Client) -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context["exception"]))

    def fail(run: Run) -> None:
        raise ValueError(run.id)

    client.on_over = fail
    async with client.work(["mail"], room=2) as work:
        await server.got(1)
        tell(server, 0, [a_run(1), a_run(2)])
        run = await anext(work)
        tell(server, 0, {"cancel": "token-1"})
        await until(lambda: bool(faults))
        assert run.is_over
        assert (await anext(work)).id == "id-2"


@pytest.mark.parametrize(("code", "is_told"), [("busy", True), ("stale", False)])
async def test_a_run_whose_report_was_refused_for_now_may_be_lost_yet(
    server: LineServer, client: Client, code: str, *, is_told: bool
) -> None:
    over: list[Run] = []
    client.on_over = over.append
    asking = await started(client.reserve(["mail"], 2))
    await server.got(1)
    server.answer(0, [a_run(1), a_run(2)])
    runs = await asking
    reporting = await started(client.finish_many([Report("token-1", "ok")]))
    await server.got(2)
    server.answer(1, [{"code": code, "message": "no"}])
    await reporting
    server.drop()
    await until(lambda: runs[1] in over)
    assert (runs[0] in over) is is_told
