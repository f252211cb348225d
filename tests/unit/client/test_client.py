import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import pytest

from kqs.client import (
    Address,
    CallTimeoutError,
    Client,
    ConnectionLostError,
    Inserted,
    UnreachableError,
    connect,
    parse_address,
)
from kqs.client.ids import ClientIds
from kqs.client.link import Link
from kqs.errors import CallError
from kqs.ids import ID_PATTERN, Ids
from kqs.pauses import Pauses
from tests.support.line_server import Line, LineServer
from tests.support.turning import started, until

T = TypeVar("T")

UNREADABLE = {"v": 1, "e": {"_isError__": 1, "message": "what?", "code": "bad_json"}, "s": "err"}


def echo(line: Line) -> Any:
    return line["m"]


def refuse(line: Line) -> Line:
    return {"e": {"_isError__": 1, "message": "no such call", "code": "unknown_call"}}


@pytest.fixture
async def client(server: LineServer) -> AsyncIterator[Client]:
    async with Client(server.address) as client:
        yield client


async def test_call_returns_its_result() -> None:
    async with LineServer(echo) as server, connect(*server.address[:2]) as client:
        assert await client.call("echo", {"a": [1, None]}) == {"a": [1, None]}


async def test_an_open_client_that_is_opened_keeps_its_connection(server: LineServer, client: Client) -> None:
    asking = await started(client.call("echo", 1))
    await server.got(1)
    await client.open()
    assert len(server.peers) == 1
    server.answer(0, 1)
    assert await asking == 1


async def test_refused_call_raises_its_code() -> None:
    async with LineServer(refuse) as server, Client(server.address) as client:
        with pytest.raises(CallError, match="no such call") as caught:
            await client.call("nope")
        assert caught.value.call_code == "unknown_call"


async def test_unix_socket_serves_as_well(tmp_path: Path) -> None:
    path = str(tmp_path / "kqs.sock")
    async with LineServer(echo, socket=path), connect(socket=path) as client:
        assert await client.call("echo", 1) == 1


async def test_answers_may_come_in_any_order(server: LineServer, client: Client) -> None:
    calls = [await started(client.call("echo", number)) for number in range(3)]
    await server.got(3)
    for index in (2, 0, 1):
        server.answer(index, f"answer {index}")
    assert await asyncio.gather(*calls) == ["answer 0", "answer 1", "answer 2"]


async def test_calls_of_one_tick_are_one_write(server: LineServer, client: Client) -> None:
    for number in range(100):
        await client.start("echo", b"%d" % number)
    await server.got(100)
    assert server.reads == [100]


async def test_intermediate_answers_are_not_the_end(server: LineServer, client: Client) -> None:
    call = await started(client.call("insert", {}))
    await server.got(1)
    peer, line = server.calls[0]
    peer.send({"v": 1, "id": line["id"], "e": None, "s": "ok", "m": "id"})
    server.answer(0, "done")
    assert await call == "done"


async def test_more_calls_than_allowed_wait_for_a_free_place(server: LineServer) -> None:
    async with Client(server.address, max_in_flight=2) as client:
        calls = [await started(client.call("echo", number)) for number in range(3)]
        assert len(await server.got(2)) == 2
        server.answer(0, "x")
        assert await calls[0] == "x"
        assert (await server.got(3))[2]["m"] == 2


async def test_insert_carries_an_id_of_its_own(server: LineServer, client: Client) -> None:
    call = await started(client.insert("mail", {"to": "me"}, prio="high"))
    [line] = await server.got(1)
    job_id = line["m"].pop("id")
    assert (line["n"], line["m"]) == ("insert", {"type": "mail", "data": {"to": "me"}, "prio": "high"})
    server.answer(0, job_id)
    assert await call == job_id


async def test_insert_keeps_the_callers_id() -> None:
    async with LineServer(lambda line: line["m"]["id"]) as server, Client(server.address) as client:
        assert await client.insert("mail", id="mine") == "mine"


async def test_insert_many_is_one_array_with_ids() -> None:
    async with LineServer(lambda line: [job["id"] for job in line["m"]]) as server, Client(server.address) as client:
        first, second = await client.insert_many([{"type": "a", "id": "mine"}, {"type": "b"}])
        assert first == "mine"
        assert second.startswith("x")
        assert len(server.calls) == 1


async def test_lost_connection_fails_the_calls_in_flight(server: LineServer, client: Client) -> None:
    call = await started(client.call("quit"))
    await server.got(1)
    server.drop()
    with pytest.raises(ConnectionLostError, match="lost"):
        await call


async def test_lost_insert_is_sent_again_under_its_id(server: LineServer, client: Client) -> None:
    call = await started(client.insert("mail"))
    await server.got(1)
    server.drop()
    first, second = await server.got(2)
    assert first == second
    server.answer(1, second["m"]["id"])
    assert await call == second["m"]["id"]


async def test_inserts_survive_a_server_that_is_away_for_a_while(server: LineServer, client: Client) -> None:
    calls = [await started(client.insert("mail", number)) for number in range(3)]
    await server.got(3)
    server.stop()
    assert not any(call.done() for call in calls)
    await server.listen()
    lines = await server.got(6)
    assert [line["m"]["data"] for line in lines[3:]] == [0, 1, 2]
    for index in (3, 4, 5):
        server.answer(index, "id")
    assert await asyncio.gather(*calls) == ["id"] * 3


async def test_call_made_without_connection_waits_for_the_next(server: LineServer, client: Client) -> None:
    lost = await started(client.call("ping"))
    await server.got(1)
    server.drop()
    with pytest.raises(ConnectionLostError):
        await lost
    call = await started(client.call("echo", "later"))
    await server.got(2)
    server.answer(1, "pong")
    assert await call == "pong"


async def test_call_without_answer_times_out(server: LineServer, client: Client) -> None:
    with pytest.raises(CallTimeoutError, match="in time"):
        await client.call("ping", timeout_s=0.01)


async def test_server_that_stays_away_is_told(server: LineServer) -> None:
    lost: list[str] = []
    async with Client(server.address, timeout_s=0.2) as client:
        client.on_lost = lost.append
        call = await started(client.insert("mail"))
        await server.got(1)
        server.stop()
        with pytest.raises(ConnectionLostError, match="could not be reached again: connection refused"):
            await call
    assert len(lost) == 1


async def test_who_waits_for_a_place_hears_first_how_the_last_call_ended(server: LineServer) -> None:
    heard: list[BaseException | None] = []
    async with Client(server.address, max_in_flight=1) as client:
        (await client.start("echo", b"1", timeout_s=0.01)).add_done_callback(lambda call: heard.append(call.exception()))
        await client.start("echo", b"2")
        assert [type(error) for error in heard] == [CallTimeoutError]


async def test_what_was_answered_while_the_process_was_stopped_is_not_late(server: LineServer, client: Client) -> None:
    call = await started(client.call("ping", timeout_s=0.3))
    await server.got(1)
    to_client = server.peers[0].transport.get_extra_info("socket").fileno()
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()

    def hold() -> None:  # where the loop has looked for what has come, and looks at its timers next
        loop.remove_reader(here)
        os.write(to_client, b'{"v":1,"id":1,"e":null,"s":"end","m":"pong"}\n')
        time.sleep(0.8)

    with here, there:
        loop.add_reader(here, hold)
        there.send(b"x")
        assert await call == "pong"


async def test_a_call_that_is_not_answered_is_late_though_the_process_was_stopped(server: LineServer, client: Client) -> None:
    call = await started(client.call("ping", timeout_s=0.3))
    await server.got(1)
    time.sleep(0.8)  # noqa: ASYNC251 - holding the loop up is the test
    with pytest.raises(CallTimeoutError):
        await call


async def test_late_answer_is_nobodys(server: LineServer, client: Client) -> None:
    with pytest.raises(CallTimeoutError):
        await client.call("ping", timeout_s=0.01)
    call = await started(client.call("ping"))
    await server.got(2)
    server.answer(0, "late")
    server.answer(1, "pong")
    assert await call == "pong"


async def test_cancelled_call_leaves_the_others_alone(server: LineServer, client: Client) -> None:
    cancelled, call = await started(client.call("a")), await started(client.call("b"))
    await server.got(2)
    cancelled.cancel()
    server.answer(0, 0)
    server.answer(1, 1)
    assert await call == 1


async def test_call_cancelled_while_there_is_no_connection_is_not_sent_later(server: LineServer, client: Client) -> None:
    lost = asyncio.Event()
    client.on_lost = lambda reason: lost.set()
    server.drop()
    await lost.wait()
    cancelled, call = await started(client.insert("t", "cancelled")), await started(client.insert("t", "wanted"))
    cancelled.cancel()
    lines = await server.got(1)
    server.answer(0, "id")
    assert await call == "id"
    assert [line["m"]["data"] for line in lines] == ["wanted"]
    assert not client._calls._pending


async def test_waiting_for_a_place_is_part_of_a_calls_time(server: LineServer) -> None:
    async with Client(server.address, max_in_flight=1) as client:
        first = await started(client.call("a", timeout_s=5))
        with pytest.raises(CallTimeoutError, match="in time"):
            await client.call("b", timeout_s=0.01)
        await server.got(1)
        server.answer(0, "still")
        assert await first == "still"
        assert [line["n"] for _, line in server.calls] == ["a"]


async def test_a_place_that_comes_too_late_goes_to_the_next(server: LineServer) -> None:
    async with Client(server.address, max_in_flight=1) as client:
        late = [await started(client.call(name, timeout_s=0.01)) for name in "abb"]
        assert {type(error) for error in await asyncio.gather(*late, return_exceptions=True)} == {CallTimeoutError}
        assert [line["n"] for _, line in server.calls] == ["a"]
        last = await started(client.call("c"))
        await server.got(2)
        server.answer(1, "here")
        assert await last == "here"


async def test_too_long_line_is_refused_before_it_is_sent(server: LineServer) -> None:
    async with Client(server.address, max_line_bytes=1000) as client:
        with pytest.raises(CallError) as caught:
            await client.call("echo", "x" * 1000)
        assert caught.value.call_code == "too_large"
        assert not server.calls


async def test_unnamed_too_large_means_the_longest_line(server: LineServer, client: Client) -> None:
    short, long = await started(client.call("echo", "x")), await started(client.call("echo", "x" * 100))
    await server.got(2)
    server.calls[0][0].send({"v": 1, "id": None, "e": {"message": "line too long", "code": "too_large"}, "s": "err"})
    server.answer(0, "x")
    assert await short == "x"
    with pytest.raises(CallError, match="too long"):
        await long


async def test_other_unnamed_errors_may_mean_any_call(server: LineServer, client: Client) -> None:
    calls = [await started(client.call("echo", number)) for number in range(2)]
    await server.got(2)
    server.calls[0][0].send(UNREADABLE)
    for call in calls:
        with pytest.raises(CallError, match="what"):
            await call


async def test_unnamed_error_is_told_to_the_insert_that_it_means_and_to_no_other(server: LineServer, client: Client) -> None:
    inserts = [await started(client.insert("mail", number)) for number in range(3)]
    await server.got(3)
    server.answer(2, "in")
    server.calls[0][0].send(UNREADABLE)
    server.calls[0][0].send(UNREADABLE)
    assert (await server.got(4))[3]["m"]["data"] == 0
    later = await started(client.call("echo", "later"))
    server.calls[3][0].send(UNREADABLE)
    with pytest.raises(CallError, match="what"):
        await inserts[0]
    assert (await server.got(5))[4]["m"]["data"] == 1
    server.answer(4, "in")
    assert await asyncio.gather(*inserts[1:]) == ["in", "in"]
    await server.got(6)
    server.answer(5, "later")
    assert await later == "later"


async def test_connection_lost_in_a_trial_is_no_verdict(server: LineServer, client: Client) -> None:
    inserts = [await started(client.insert("mail", number)) for number in range(2)]
    await server.got(2)
    server.calls[0][0].send(UNREADABLE)
    await server.got(3)
    server.drop()
    assert (await server.got(4))[3]["m"]["data"] == 0
    server.answer(3, "first")
    await server.got(5)
    server.answer(4, "second")
    assert await asyncio.gather(*inserts) == ["first", "second"]


async def test_unnamed_error_about_the_connection_means_every_call(server: LineServer, client: Client) -> None:
    calls = [await started(client.insert("mail")), await started(client.call("ping"))]
    await server.got(2)
    server.calls[0][0].send({"v": 1, "e": {"message": "too many connections", "code": "busy"}, "s": "err"})
    for call in calls:
        with pytest.raises(CallError, match="too many"):
            await call


@pytest.mark.parametrize("arg", [b'"\xff"', rb'"\ud800"', b"[" * 64 + b"]" * 64])
async def test_line_that_no_server_reads_is_refused_before_it_is_sent(server: LineServer, client: Client, arg: bytes) -> None:
    with pytest.raises(CallError) as caught:
        await client.start("echo", arg)
    assert caught.value.call_code == "bad_json"
    assert not server.calls


async def test_server_that_speaks_otherwise_is_left(server: LineServer, client: Client) -> None:
    call = await started(client.call("ping"))
    await server.got(1)
    server.peers[0].transport.write(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(ConnectionLostError, match="no answer"):
        await call


async def test_long_answers_arrive_whole() -> None:
    async with LineServer(echo) as server, Client(server.address) as client:
        assert await client.call("echo", "x" * 1_000_000) == "x" * 1_000_000


@pytest.mark.parametrize("host", ["x" * 300, "\u202ehost", "\ud800"])
async def test_what_is_no_name_of_a_host_is_told(host: str) -> None:
    with pytest.raises(UnreachableError, match="no name of a host"):
        await connect(host).open()


async def test_nobody_listening_is_told_at_once() -> None:
    async with LineServer() as server:
        address = server.address
    with pytest.raises(UnreachableError, match=rf"{address.port}: connection refused"):
        await Client(address).open()


async def test_a_name_that_has_two_addresses_at_which_nobody_listens_is_refused_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with LineServer() as server:
        port = server.address.port
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", port)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: found)
    with pytest.raises(UnreachableError) as refused:
        await connect("localhost", port).open()
    assert str(refused.value) == f"localhost:{port}: connection refused"


async def test_missing_socket_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="no such file"):
        await connect(socket=str(tmp_path / "none")).open()


async def test_closing_fails_what_is_in_flight(server: LineServer) -> None:
    async with Client(server.address) as client:
        call = await started(client.insert("mail"))
    with pytest.raises(ConnectionLostError, match="closed"):
        await call


async def test_closed_client_refuses_calls(server: LineServer) -> None:
    async with Client(server.address) as client:
        pass
    with pytest.raises(ConnectionLostError, match="not open"):
        await client.call("ping")
    await client.close()


async def test_closing_ends_the_reconnecting(server: LineServer) -> None:
    async with Client(server.address) as client:
        lost = await started(client.call("ping"))
        await server.got(1)
        server.stop()
        with pytest.raises(ConnectionLostError):
            await lost
        calls = client._calls
        assert calls._retrying is not None
    assert calls._retrying.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("how", ["all tasks are cancelled", "its own is cancelled", "an error"])
async def test_client_comes_back_whatever_ends_a_try(server: LineServer, how: str) -> None:
    tries: list[asyncio.Task[Any] | None] = []
    is_over = asyncio.Event()

    async def open_link(*arguments: Any) -> Link:
        tries.append(asyncio.current_task())
        if len(tries) == 2 and how == "an error":
            raise ZeroDivisionError
        if len(tries) == 2:
            await is_over.wait()
        return await Link.open(*arguments)

    async with Client(server.address, timeout_s=20, open_link=open_link) as client:
        insert = await client.start("insert", b'{"type":"mail","id":"one"}', repeatable=True)
        await server.got(1)
        server.drop()
        await until(lambda: len(tries) == 2)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert tries[1] not in others
        ended: dict[str, list[asyncio.Task[Any] | None]]
        ended = {"all tasks are cancelled": [*others], "its own is cancelled": tries[1:]}
        for one in ended.get(how, []):
            assert one is not None
            one.cancel()
        if how != "its own is cancelled":
            is_over.set()
        await server.got(2)
        server.answer(1, "one")
        assert bytes(await insert) == b'"one"'


async def test_client_tries_again_until_the_server_is_back(server: LineServer) -> None:
    attempts: list[int] = []

    async def open_at_first_and_the_fourth_time(*arguments: Any) -> Link:
        attempts.append(1)
        if len(attempts) == 2:
            raise ConnectionRefusedError
        link = await Link.open(*arguments)
        if len(attempts) == 3:
            link.abort("gone at once")
            await link.lost
        return link

    async with Client(server.address, open_link=open_at_first_and_the_fourth_time) as client:
        call = await started(client.insert("mail"))
        await server.got(1)
        server.drop()
        await server.got(2)
        server.answer(1, "id")
        assert (await call, len(attempts)) == ("id", 4)


async def test_a_server_that_closes_each_connection_is_not_back(
    server: LineServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def no_wait(pauses: Pauses) -> float:
        waits.append(pauses.next_s())
        return 0.0

    monkeypatch.setattr(Pauses, "next_spread_s", no_wait)
    call = await started(client.insert("mail"))
    for count in range(1, 5):
        await server.got(count)
        server.drop()
    await server.got(5)
    server.answer(4, "id")
    assert (await call, waits) == ("id", [0.05, 0.1, 0.2, 0.4])
    again = await started(client.insert("mail"))
    await server.got(6)
    server.drop()
    await server.got(7)
    server.answer(6, "id")
    assert (await again, waits[4:]) == ("id", [0.05])


async def test_connection_that_ends_at_once_is_opened_again(server: LineServer, monkeypatch: pytest.MonkeyPatch) -> None:
    true_open, links = Link.open, list[Link]()

    async def open_and_lose_the_first(*arguments: Any) -> Link:
        links.append(await true_open(*arguments))
        if len(links) == 1:
            links[0].abort("gone at once")
            await links[0].lost
        return links[-1]

    monkeypatch.setattr(Link, "open", open_and_lose_the_first)
    async with Client(server.address) as client:
        call = await started(client.call("ping"))
        await server.got(1)
        server.answer(0, "pong")
        assert await call == "pong"


async def test_lines_wait_while_the_server_does_not_read(server: LineServer, client: Client) -> None:
    assert isinstance(client._calls._link, Link)
    client._calls._link.pause_writing()
    calls = [await started(client.call("echo", number)) for number in range(2)]
    client._calls._link.resume_writing()
    await server.got(2)
    assert server.reads == [2]
    for index, call in enumerate(calls):
        server.answer(index, index)
        assert await call == index


async def test_closing_does_not_wait_for_a_server_that_reads_nothing(
    server: LineServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kqs.client.link._CLOSE_S", 0.01)
    async with Client(server.address) as client:
        await client.start("ping", b"null")
        await server.got(1)
        server.peers[0].transport.pause_reading()
        lost = await client.start("echo", b'"' + b"x" * 15_000_000 + b'"')
    assert isinstance(lost.exception(), ConnectionLostError)


def test_ids_grow_and_are_none_that_a_server_makes() -> None:
    ids, server_ids = ClientIds(), Ids("0123abcd")
    made = [ids.take() for _ in range(1000)]
    assert made == sorted(set(made))
    assert all(ID_PATTERN.match(one) and not server_ids.may_be_unmade(one, 0.0) for one in made)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:14151", Address("localhost", 14151)),
        ("example.org", Address("example.org", 14151)),
        (":7", Address("localhost", 7)),
        ("", Address("localhost", 14151)),
        ("[::1]:7", Address("::1", 7)),
        ("[::1]", Address("::1", 14151)),
        ("::1", Address("::1", 14151)),
        ("unix:/run/kqs.sock", Address(socket="/run/kqs.sock")),
    ],
)
def test_address_is_parsed(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["a:b", "a:0", "a:65536", "a:-1", "unix:"])
def test_wrong_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text)


@pytest.mark.parametrize("text", ["localhost:1", "[::1]:2", "unix:/x"])
def test_address_is_shown_as_it_is_written(text: str) -> None:
    assert str(parse_address(text)) == text


@dataclass
class Shop:
    delay: float
    owner: str | None = None


def inserted(line: Line) -> str:
    job_id: str = line["m"]["id"]
    return job_id


async def test_no_id_is_an_id_of_ours_so_that_a_lost_answer_may_be_asked_for_again() -> None:
    async with LineServer(inserted) as server, Client(server.address) as client:
        assert ID_PATTERN.fullmatch(await client.insert("t", id=None))


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
async def test_a_number_that_json_cannot_say_is_refused_by_the_name_of_its_field(client: Client, number: float) -> None:
    for work in (
        client.insert("t", delay=number),
        client.insert_many([{"type": "t"}, {"type": "t", "delay": number}]),
        client.call("echo", {"delay": number}),
        client.insert("t", {"delay": (None, number)}),
        client.insert("t", Shop(number)),
        client.insert("t", [msgspec.Raw(b"null"), {"delay": {number}}]),
    ):
        with pytest.raises(CallError, match=r"delay(\[[01]\])?: expected a finite number, got (-?inf|nan)"):
            await work


async def test_text_and_numbers_of_classes_of_their_own_are_what_they_are() -> None:
    class Name(str):
        pass

    class Share(float):
        pass

    async with LineServer(echo) as server, Client(server.address) as client:
        assert await client.call("echo", {Name("a"): [Name("b"), Share(0.5), None]}) == {"a": ["b", 0.5, None]}


async def test_text_that_is_no_unicode_is_refused_as_a_line_that_the_server_would_not_take(client: Client) -> None:
    for work in (client.insert("t", {"file": "a\udcff"}), client.insert("\ud800"), client.call("\ud800")):
        with pytest.raises(CallError, match="surrogate"):
            await work


@pytest.mark.parametrize("text", [b'{\n  "a": 1,\r\n  "b": [\n]\n}', b'{"a":1,"b":[]}\n'])
async def test_json_of_several_lines_is_sent_as_one(text: bytes) -> None:
    async with LineServer(echo) as server, Client(server.address) as client:
        assert await client.call("echo", msgspec.Raw(text)) == {"a": 1, "b": []}
        assert msgspec.json.decode(await (await client.start("echo", text))) == {"a": 1, "b": []}


@pytest.mark.parametrize(
    "value", [msgspec.Raw(b"null"), [None, b"x", UUID(int=0), datetime(2026, 1, 1), Decimal(1)], (None, 2**70)]
)
async def test_what_no_number_can_hide_in_is_sent(client: Client, server: LineServer, value: object) -> None:
    (await started(client.insert("t", value))).cancel()


async def test_null_is_still_a_value() -> None:
    async with LineServer(echo) as server, Client(server.address) as client:
        assert await client.call("echo", {"a": None, "b": "null", "c": 1.5}) == {"a": None, "b": "null", "c": 1.5}


@pytest.mark.parametrize("timeout_s", [float("inf"), float("nan"), 0, -1, 1e300, 10**400, True, "5", Decimal(5)])
async def test_a_time_out_that_no_clock_can_keep_is_refused(server: LineServer, client: Client, timeout_s: Any) -> None:
    with pytest.raises(ValueError, match="timeout_s"):
        Client(server.address, timeout_s=timeout_s)
    with pytest.raises(ValueError, match="timeout_s"):
        await client.call("ping", timeout_s=timeout_s)
    with pytest.raises(ValueError, match="timeout_s"):
        await client.start("ping", b"null", timeout_s=timeout_s)
    for waiting in (client.insert("mail", wait=timeout_s), client.wait_job("one", timeout_s)):
        with pytest.raises(ValueError, match=r"wait: expected a number of seconds above 0 and up to [0-9]+, got"):
            await waiting


@pytest.mark.parametrize(
    "settings",
    [
        *(
            {name: value}
            for name in ("max_in_flight", "max_line_bytes")
            for value in (0, -1, True, 2.5, float("nan"), "7", None)
        ),
        *({"host": host} for host in ("", None, 7, b"localhost")),
        *({"port": port} for port in (0, -1, 65536, True, "14151", 1.5, None)),
        *({"socket": socket} for socket in (7, None, b"kqs.sock")),
    ],
    ids=str,
)
def test_what_a_client_cannot_keep_to_is_refused_by_its_name(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(settings))}: expected"):
        connect(**settings)


@pytest.mark.parametrize("address", ["localhost:14151", ("localhost", 14151, ""), 14151, ""])
def test_an_address_is_an_address(address: Any) -> None:
    with pytest.raises(ValueError, match=r"^address: expected .* parse_address"):
        Client(address)


async def test_a_path_may_be_a_path(tmp_path: Path) -> None:
    async with LineServer(echo, socket=str(tmp_path / "s")), connect(socket=tmp_path / "s") as client:
        assert await client.call("echo", 1) == 1


async def test_what_is_no_call_is_refused_by_what_is_wrong_with_it(server: LineServer, client: Client) -> None:
    name: Any
    for name in (None, 7):
        for work in (client.call(name), client.start(name, b"null")):
            with pytest.raises(ValueError, match=r"^name: expected"):
                await work
    arg: Any
    for arg in ("null", None, bytearray(b"1"), {}):
        with pytest.raises(ValueError, match=r"^arg: expected JSON as bytes"):
            await client.start("echo", arg)
    jobs: Any
    for jobs in (["x"], {"type": "x"}, "x", [{"type": "x"}, None]):
        with pytest.raises(ValueError, match=r"^job: expected a mapping"):
            await client.insert_many(jobs)


@pytest.mark.parametrize("arg", [b"", b" ", b"nope", b"1 2", b'{"a":', b"1}", b'1,"id":7', b"NaN", b"[" * 5000])
async def test_an_argument_that_is_no_json_disturbs_no_other_call(arg: bytes, server: LineServer, client: Client) -> None:
    other = await started(client.call("echo"))
    with pytest.raises(CallError) as caught:
        await client.start("echo", arg)
    assert caught.value.call_code == "bad_json"
    await server.got(1)
    server.answer(0, "undisturbed")
    assert await other == "undisturbed"


def told(created: bool) -> Callable[[Line], Line]:
    def answer(line: Line) -> Line:
        return {"id": line["m"]["id"], "created": created}

    return answer


async def test_full_answer_is_typed_and_its_id_may_be_another_jobs() -> None:
    async with LineServer(lambda line: {"id": "other", "created": False}) as server, Client(server.address) as client:
        inserted = await client.insert("mail", unique="k", on_conflict="refuse", answer="full", delay=1)
        assert inserted == Inserted("other", created=False)
    ((_, line),) = server.calls
    assert line["m"] | {"id": ""} == {
        "type": "mail", "data": None, "delay": 1, "unique": "k", "on_conflict": "refuse", "answer": "full", "id": "",
    }  # fmt: skip


async def test_job_under_an_id_made_here_was_made_by_its_insert_however_often_that_was_sent() -> None:
    async with LineServer(told(False)) as server, Client(server.address) as client:
        assert (await client.insert("mail", answer="full")).created
        assert await client.insert("mail", id="mine", answer="full") == Inserted("mine", created=False)


async def test_answer_without_an_object_is_no_full_one() -> None:
    async with LineServer(lambda line: "old") as server, Client(server.address) as client:
        with pytest.raises(TypeError, match="an id alone"):
            await client.insert("mail", answer="full")


async def test_insert_many_tells_each_jobs_fate() -> None:
    answers = [{"id": "a", "created": False}, {"code": "duplicate", "message": "b waits"}, {"code": "newer", "message": "?"}]
    async with LineServer(lambda line: answers) as server, Client(server.address) as client:
        one, two, three = await client.insert_many(
            [{"type": "mail", "id": "a"}, {"type": "mail"}, {"type": "x"}], answer="full"
        )
        assert one == Inserted("a", created=False)
        assert isinstance(two, CallError)
        assert isinstance(three, CallError)
        assert (two.call_code, str(two), three.call_code) == ("duplicate", "b waits", "internal")
    assert [job["answer"] for job in server.calls[0][1]["m"]] == ["full"] * 3


async def test_insert_many_returns_ids_or_raises_what_was_refused() -> None:
    answers = ["a", {"id": "b", "created": True}]
    async with LineServer(lambda line: answers) as server, Client(server.address) as client:
        assert await client.insert_many([{"type": "mail"}, {"type": "mail", "answer": "full"}]) == ["a", "b"]
        answers.append({"code": "duplicate", "message": "c waits"})
        with pytest.raises(CallError, match="c waits"):
            await client.insert_many([{"type": "mail"}] * 3)


async def test_refused_insert_raises_its_code() -> None:
    refusal = {"e": {"_isError__": 1, "message": "unique: a job waits", "code": "duplicate"}}
    async with LineServer(lambda line: refusal) as server, Client(server.address) as client:
        with pytest.raises(CallError) as caught:
            await client.insert("mail", unique="k", on_conflict="refuse", answer="full")
        assert caught.value.call_code == "duplicate"
