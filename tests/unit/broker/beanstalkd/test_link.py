from __future__ import annotations

import asyncio
import time

import pytest

from kqs.broker.beanstalkd import link as link_module
from kqs.broker.beanstalkd.link import Link, LinkLostError
from kqs.wire.beanstalk.commands import Delete, Stats
from kqs.wire.beanstalk.values import Reply, Word
from tests.support.supervising import StrictSupervisor
from tests.support.turning import idle, until
from tests.support.wire import Wire


class Ends:
    """A connected link, its wire, and why it was lost."""

    def __init__(self) -> None:
        self.lost: list[str] = []
        self.wire = Wire()
        self.link = Link(self.lost.append, StrictSupervisor())
        self.link.connection_made(self.wire)

    async def ask(self, *ids: int) -> asyncio.Task[list[Reply]]:
        """Ask for deletes; return when they have been written."""
        task = asyncio.ensure_future(self.link.ask(*(Delete(number) for number in ids)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return task


@pytest.fixture
async def ends() -> Ends:
    return Ends()


async def test_what_is_asked_in_one_tick_is_written_at_once(ends: Ends) -> None:
    first = asyncio.ensure_future(ends.link.ask(Delete(1)))
    second = asyncio.ensure_future(ends.link.ask(Delete(2), Delete(3)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert ends.wire.writes == [b"delete 1\r\ndelete 2\r\ndelete 3\r\n"]
    ends.link.data_received(b"DELETED\r\nNOT_FOUND\r\nDELETED\r\n")
    assert (await first, await second) == ([Word.DELETED], [Word.NOT_FOUND, Word.DELETED])
    assert ends.link.in_flight == 0


async def test_replies_may_come_in_pieces(ends: Ends) -> None:
    asked = await ends.ask(1, 2)
    ends.link.data_received(b"DELETED\r\nNOT_")
    ends.link.data_received(b"FOUND\r\n")
    assert await asked == [Word.DELETED, Word.NOT_FOUND]


async def test_nothing_is_written_while_the_server_does_not_read(ends: Ends) -> None:
    ends.link.pause_writing()
    await ends.ask(1)
    assert ends.wire.writes == []
    ends.link.resume_writing()
    assert ends.wire.writes == [b"delete 1\r\n"]


async def test_a_lost_connection_fails_what_is_unanswered(ends: Ends) -> None:
    asked = await ends.ask(1)
    ends.link.connection_lost(ConnectionResetError("reset"))
    with pytest.raises(LinkLostError, match="reset"):
        await asked
    with pytest.raises(LinkLostError, match="reset"):
        await ends.link.ask(Stats())
    assert ends.lost == ["reset"]


async def test_an_impossible_reply_ends_the_connection_once(ends: Ends) -> None:
    asked = await ends.ask(1, 2)
    ends.link.data_received(b"DELETED\r\nINSERTED 1\r\n")
    with pytest.raises(LinkLostError, match="answered by"):
        await asked
    assert ends.wire.is_aborted
    ends.link.data_received(b"DELETED\r\n")
    ends.link.abort("again")
    ends.link.connection_lost(None)
    assert len(ends.lost) == 1


async def test_a_reply_that_is_late_ends_the_connection(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "REPLY_WITHIN_S", 0.05)
    (await ends.ask(1)).cancel()
    ends.link.data_received(b"DELETED\r\n")
    asked_at = asyncio.get_running_loop().time()
    await until(lambda: asyncio.get_running_loop().time() > asked_at + 0.01)  # so that its own time ends later
    asked = await ends.ask(2)
    with pytest.raises(LinkLostError, match=r"no reply within 0\.05 s"):
        await asyncio.wait_for(asked, 10)


@pytest.mark.parametrize("is_first", [True, False])
async def test_a_reply_that_came_while_the_loop_was_held_up_is_not_late(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    monkeypatch.setattr(link_module, "REPLY_WITHIN_S", 0.1)
    if not is_first:  # then the time is what is left of that as an earlier one is looked at
        (await ends.ask(1)).cancel()
        ends.link.data_received(b"DELETED\r\n")
        await asyncio.sleep(0.05)
    asked = await ends.ask(2)
    if not is_first:
        looked = ends.link._timer
        await until(lambda: ends.link._timer is not looked)
    time.sleep(0.5)  # noqa: ASYNC251 - holding the loop up is the test
    asyncio.get_running_loop().call_later(0.1, ends.link.data_received, b"DELETED\r\n")
    assert await asyncio.wait_for(asked, 10) == [Word.DELETED]
    assert ends.lost == []


async def test_an_idle_connection_is_never_late(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "REPLY_WITHIN_S", 0.01)
    asked = await ends.ask(1)
    ends.link.data_received(b"DELETED\r\n")
    await asked
    await until(lambda: ends.link._timer is None)  # which is when it looked
    assert ends.link.is_open


async def test_who_gave_up_waiting_disturbs_nobody(ends: Ends) -> None:
    (await ends.ask(1)).cancel()
    asked = await ends.ask(2)
    ends.link.data_received(b"NOT_FOUND\r\nDELETED\r\n")
    assert await asked == [Word.DELETED]


async def test_reading_rests_while_many_replies_are_to_come(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "REST_S", 0.0)
    asked = await ends.ask(*range(link_module.MANY_REPLIES + 1))
    ends.link.data_received(b"DELETED\r\n")
    assert not ends.wire.is_read
    await until(lambda: ends.wire.is_read)
    ends.link.data_received(b"DELETED\r\n" * link_module.MANY_REPLIES)
    assert ends.wire.is_read
    assert len(await asked) == link_module.MANY_REPLIES + 1


async def test_a_connection_that_ended_in_its_rest_is_left_alone(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "REST_S", 0.0)
    asked = await ends.ask(*range(link_module.MANY_REPLIES + 1))
    ends.link.data_received(b"DELETED\r\n")
    ends.link.abort("enough")
    await idle()
    assert not ends.wire.is_read
    with pytest.raises(LinkLostError):
        await asked


async def test_commands_held_back_are_dropped_with_the_connection(ends: Ends) -> None:
    ends.link.pause_writing()
    asked = await ends.ask(1)
    ends.link.abort("enough")
    ends.link.resume_writing()
    assert ends.wire.writes == []
    with pytest.raises(LinkLostError, match="enough"):
        await asked


async def test_a_name_is_tried_at_each_of_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def addresses_of(host: str | None) -> list[str]:
        return {"broker": ["127.0.0.2", "127.0.0.1"], "gone": ["127.0.0.2", "127.0.0.3"]}[host or ""]

    monkeypatch.setattr(link_module, "addresses_of", addresses_of)
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    link = await Link.open(f"broker:{port}", lambda reason: None, StrictSupervisor())
    assert link.is_open
    link.abort("done")
    with pytest.raises(OSError):
        await Link.open(f"gone:{port}", lambda reason: None, StrictSupervisor())
    server.close()


async def test_who_ends_the_connection_over_one_reply_is_told_no_other(ends: Ends) -> None:
    told: list[object] = []
    ends.link.send([Delete(1)], lambda replies: ends.link.abort("enough"))
    ends.link.send([Delete(2)], told.append)
    ends.link.data_received(b"NOT_FOUND\r\nDELETED\r\n")
    assert (told, ends.lost) == ([None], ["enough"])


async def test_what_is_begun_together_is_written_at_once_and_waited_for_apart(ends: Ends) -> None:
    first, second = (ends.link.begin_ask([Delete(number)]) for number in (1, 2))
    await asyncio.sleep(0)
    assert ends.wire.writes == [b"delete 1\r\ndelete 2\r\n"]
    ends.link.data_received(b"DELETED\r\n")
    assert await ends.link.end_ask(first) == [Word.DELETED]
    ends.link.abort("enough")
    with pytest.raises(LinkLostError, match="enough"):
        await ends.link.end_ask(second)
