"""What a peer is answered, and when."""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from kqs.journal.format import Kind, Record
from kqs.rpc.answers import LITTLE_BYTES
from kqs.rpc.peer import MAX_TASKS
from kqs.wire.call import Call
from tests.support.conversing import Conversing


async def test_a_batch_is_answered_as_one_array_when_all_of_it_is_answered() -> None:
    talk = Conversing()
    talk.backend.journal.held = True
    line = (
        b'[{"jsonrpc":"2.0","id":1,"method":"insert","params":{"type":"x","id":"a"}},'
        b'{"jsonrpc":"2.0","id":2,"method":"ping"},{"jsonrpc":"2.0","method":"ping"}]\n'
    )
    assert talk.hear(line) == []
    talk.backend.journal.flush()
    batch: Any
    (batch,) = talk.answers()
    assert sorted((answer["id"], answer["result"]) for answer in batch) == [(1, "a"), (2, "pong")]


async def test_a_batch_of_notifications_is_not_answered() -> None:
    line = b'[{"jsonrpc":"2.0","method":"ping"},{"jsonrpc":"2.0","method":"insert","params":{"type":"x"}}]\n'
    talk = Conversing()
    assert await talk.settled(line) == []
    assert len(talk.backend.journal.records) == 1


async def test_answers_are_taken_in_one_piece_and_once() -> None:
    peer = Conversing().conversation.peer
    for number in (b"1", b"2"):
        peer.answer(Call("ping", id=Raw(number)), b'"pong"')
    length = peer.answer_bytes
    assert len(peer.data_to_send()) == length
    assert peer.data_to_send() == b""
    assert peer.answer_bytes == 0


async def test_one_task_at_a_time_answers_until_an_answer_was_short() -> None:
    peer = Conversing().conversation.peer
    assert peer.most_tasks == 1
    for size, most in ((LITTLE_BYTES, MAX_TASKS), (LITTLE_BYTES + 1, 1)):
        peer.begin_task()
        peer.end_task(size)
        assert peer.most_tasks == most
    assert peer.in_flight == peer.tasks == 0


def a_record(settled: list[str], name: str) -> Record:
    record = Record(Kind.JOBS, 1, 1, b"[]", [])
    record.done = lambda _error: settled.append(name)
    return record


async def test_what_comes_after_inserts_is_answered_when_the_last_of_them_is_settled() -> None:
    peer, order = Conversing().conversation.peer, list[str]()
    first, second = a_record(order, "first"), a_record(order, "second")
    peer.await_flush(first)
    peer.await_flush(second)
    peer.after_earlier_inserts(lambda: order.append("after"))
    for record in (first, second):
        assert peer.is_inserting
        assert record.done is not None
        record.done(None)
        peer.settle_flushed(record)
    assert order == ["first", "second", "after"]
    assert not peer.is_inserting
    peer.after_earlier_inserts(lambda: order.append("at once"))
    assert order[-1] == "at once"
    assert peer.in_flight == 0


async def test_an_insert_that_is_flushed_is_unanswered_until_it_is_told() -> None:
    peer = Conversing().conversation.peer
    record = a_record([], "record")
    peer.await_flush(record)
    peer.note_flushed(record)
    assert not peer.is_inserting
    assert peer.in_flight == 1
