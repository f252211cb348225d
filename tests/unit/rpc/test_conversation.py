"""From lines to answers: which way a line takes, in which order calls start, and when a peer must wait."""

from __future__ import annotations

import msgspec
import pytest

from kqs.rpc import context as context_module
from kqs.wire import dialect
from kqs.wire.jsonrpc import MAX_BATCH_CALLS
from kqs.wire.steps import finish
from tests.support.conversing import Conversing, codes, put_off

TRANSCRIPT = (
    b'{"n":"ping"}\n{"v":1,"id":1,"n":"echo","m":{"a":[1.50,"\xc3\xa9"]}}\r\n\n'
    b'{"id":2,"n":"insert","m":{"type":"x","id":"a"}}\n{"id":3,"n":"insert","m":[{"type":"x","id":"b"},{"type":"y","id":"c"}]}\n'
    b'nonsense\n{"id":4,"n":"nope"}\n{"jsonrpc":"2.0","id":5,"method":"echo","params":[1]}\nnonsense\n'
    b'[{"jsonrpc":"2.0","id":6,"method":"ping"},{"jsonrpc":"2.0","id":7,"method":"insert","params":{"type":"x","id":"d"}}]\n'
    b'{"id":8,"n":"echo","b":"aGVsbG8="}\n{"id":9,"n":"insert","m":{"type":"x","nope":1}}\n'
)
CALLS_ASIDE = b'{"id":"last","n":"insert","m":{"type":"never"}}'  # cut short by the end of input


async def test_a_call_is_answered_in_the_dialect_it_was_spoken_in() -> None:
    answers = Conversing().hear(b'{"id":1,"n":"ping"}\n{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
    assert answers == [{"v": 1, "id": 1, "e": None, "s": "end", "m": "pong"}, {"jsonrpc": "2.0", "id": 1, "result": "pong"}]


async def test_no_json_is_answered_in_the_dialect_last_spoken() -> None:
    answers = Conversing().hear(b"?\n", b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n?\n', b'{"n":"ping"}\n?\n')
    assert [("jsonrpc" in answer, "e" in answer) for answer in answers] == [
        (False, True), (True, False), (True, False), (False, False), (False, True),
    ]  # fmt: skip


async def test_echo_gives_back_the_very_bytes() -> None:
    talk = Conversing()
    talk.conversation.receive_data(b'{"id":1,"n":"echo","m":{"x" : 18446744073709551616, "y":1e400}}\n')
    talk.proceed()
    assert b'"m":{"x" : 18446744073709551616, "y":1e400}}\n' in talk.bytes_said()


async def test_echo_gives_back_binary_data_as_binary_data() -> None:
    (answer,) = Conversing().hear(b'{"id":1,"n":"echo","b":"aGVsbG8="}\n')
    assert answer["b"] == "aGVsbG8="


async def test_every_two_way_split_gives_the_same_answers() -> None:
    whole = await Conversing().settled(TRANSCRIPT + CALLS_ASIDE)
    for at in range(1, len(TRANSCRIPT)):
        halves = await Conversing().settled(TRANSCRIPT[:at], TRANSCRIPT[at:] + CALLS_ASIDE)
        assert sorted(map(repr, halves)) == sorted(map(repr, whole)), at


async def test_byte_by_byte_gives_the_same_answers() -> None:
    whole = await Conversing().settled(TRANSCRIPT)
    dripped = await Conversing().settled(*(TRANSCRIPT[at : at + 1] for at in range(len(TRANSCRIPT))))
    assert sorted(map(repr, dripped)) == sorted(map(repr, whole))


async def test_a_line_cut_short_by_the_end_of_input_is_no_call() -> None:
    talk = Conversing()
    assert await talk.settled(CALLS_ASIDE) == []
    assert not talk.backend.journal.records


async def test_a_too_long_line_is_an_error_and_its_neighbours_are_answered() -> None:
    answers = Conversing(max_line_bytes=100).hear(b'{"n":"ping"}\n' + b"x" * 500 + b'\n{"n":"ping"}\n')
    assert codes(answers) == ["ok", "too_large", "ok"]


async def test_an_unknown_call_names_the_nearest_known_one() -> None:
    (answer,) = Conversing().hear(b'{"n":"pong"}\n')
    assert answer["e"]["code"] == "unknown_call"
    assert "ping" in answer["e"]["message"]


async def test_a_batch_of_too_many_calls_is_refused_whole() -> None:
    member = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
    (answer,) = Conversing(max_line_bytes=10**7).hear(b"[" + b",".join([member] * (MAX_BATCH_CALLS + 1)) + b"]\n")
    assert answer["error"]["data"]["code"] == "too_large"


async def test_a_peer_with_too_many_calls_unanswered_is_full_until_they_are() -> None:
    talk = Conversing(max_in_flight=2)
    talk.backend.journal.held = True
    talk.hear(b'{"id":1,"n":"insert","m":[{"type":"x"}]}\n{"id":2,"n":"insert","m":[{"type":"x"}]}\n{"id":3,"n":"ping"}\n')
    assert talk.conversation.is_full
    talk.backend.journal.flush()
    talk.proceed()
    assert [answer["id"] for answer in talk.answers()] == [1, 2, 3]
    assert talk.conversation.is_idle


async def test_inserts_wait_while_the_journal_is_far_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_module, "MAX_UNFLUSHED_BYTES", 10)
    talk = Conversing()
    talk.backend.journal.held = True
    insert = b'{"id":1,"n":"insert","m":{"type":"x"}}\n'
    talk.hear(insert)
    assert not talk.conversation.is_full
    assert talk.hear(b'{"id":2,"n":"ping"}\n' + insert) == []
    assert talk.conversation.is_full
    talk.backend.journal.flush()
    assert [answer["id"] for answer in talk.hear(b"")] == [1, 2]


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("insert", b'[{"type":"x"}]'),
        ("adopt", b'{"type":"x","id":"a"}'),
        ("batch", b'{"jobs":[{"type":"x"}],"then":{"type":"x"}}'),
        ("fire", b'"nightly"'),
    ],
)
async def test_whatever_is_journaled_waits_while_that_is_far_behind(
    name: str, argument: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context_module, "MAX_UNFLUSHED_BYTES", 10)
    talk = Conversing()
    talk.backend.journal.held = True
    talk.hear(b'{"id":1,"n":"insert","m":{"type":"x"}}\n')
    assert talk.hear(b'{"id":2,"n":"%b","m":%b}\n' % (name.encode(), argument)) == []
    assert talk.conversation.is_full
    assert talk.context.counters.calls == {"insert": 1}
    talk.backend.journal.flush()
    talk.backend.journal.held = False
    assert [answer["id"] for answer in await talk.settled()] == [1, 2]
    assert talk.context.counters.calls[name] >= 1


async def test_long_answers_are_taken_in_pieces() -> None:
    talk = Conversing()
    talk.conversation.receive_data(b'{"n":"help"}\n' * 1000)
    pieces = 0
    while talk.conversation.proceed():
        assert len(talk.conversation.peer.data_to_send()) < 100_000
        pieces += 1
    assert pieces > 10


async def test_calls_of_one_chunk_that_differ_start_in_order() -> None:
    talk = Conversing()
    answers = await talk.settled(
        b'{"id":1,"n":"insert","m":{"type":"x","id":"a"}}\n{"id":2,"n":"job","m":"a"}\n{"id":3,"n":"ping"}\n'
    )
    assert {answer["id"] for answer in answers} == {1, 2, 3}
    assert talk.context.counters.calls == {"insert": 1, "job": 1, "ping": 1}


NO_CALLS = [
    b"[1,2]", b"[]", b"{}", b"1", b'"x"', b"null", b'{"n":5}', b'{"n":"echo","q":1}', b'{"n":"ping","n":"quit"}',
]  # fmt: skip


@pytest.mark.parametrize("line", NO_CALLS)
async def test_json_that_is_no_call_is_bad_call(line: bytes) -> None:
    answers = Conversing().hear(line + b"\n")
    decoded = answers[0] if isinstance(answers[0], list) else answers
    assert {a["e"]["code"] if "e" in a else a["error"]["data"]["code"] for a in decoded} == {"bad_call"}


async def test_an_answer_is_one_line_of_json_whatever_was_asked() -> None:
    talk = Conversing()
    talk.conversation.receive_data(TRANSCRIPT)
    talk.proceed()
    for line in talk.bytes_said().splitlines():
        assert msgspec.json.decode(line)


PAD = b'"' + b"x" * 400_000 + b'"'


@pytest.mark.parametrize(
    "line",
    [
        b'{"id":1,"n":"insert","m":{"type":"x","id":"a","data":%b}}' % PAD,
        b'{"id":1,"n":"insert","m":[{"type":"x","id":"a","auth":{"user":"me"}},{"type":"y","id":"b","data":%b}]}' % PAD,
        b'{"id":1,"n":"echo","m":%b}' % PAD,
        b'{"id":1,"n":"nope","m":%b}' % PAD,
        b'{"jsonrpc":"2.0","id":1,"method":"echo","params":%b}' % PAD,
    ],
)
async def test_a_long_line_is_answered_in_its_turn(line: bytes) -> None:
    ping = b'{"id":0,"n":"ping"}\n'
    answers = await Conversing(max_line_bytes=10**6).settled(ping + line[:1000], line[1000:] + b"\n" + ping)
    assert sorted(answer["id"] for answer in answers) == [0, 0, 1]


async def test_while_a_long_line_is_decoded_its_peer_waits_and_others_do_not() -> None:
    talk = Conversing(max_line_bytes=10**6)
    waiting = put_off(talk)
    assert talk.hear(b'{"id":1,"n":"echo","m":%b}\n{"id":2,"n":"ping"}\n' % PAD) == []
    assert talk.conversation.is_full
    assert not talk.conversation.is_idle
    finish(waiting.pop())
    assert not talk.conversation.is_full
    talk.proceed()
    assert [answer["id"] for answer in talk.answers()] == [1, 2]


async def test_a_long_line_of_a_peer_that_left_is_dropped() -> None:
    talk = Conversing(max_line_bytes=10**6)
    waiting = put_off(talk)
    talk.hear(b'{"id":1,"n":"insert","m":{"type":"x","data":%b}}\n' % PAD)
    talk.conversation.forget()
    finish(waiting.pop())
    assert not talk.backend.journal.records
    assert talk.conversation.is_idle


async def test_a_fault_of_ours_in_a_long_line_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("ours")

    monkeypatch.setattr(dialect, "decoding_any", fail)
    talk = Conversing(max_line_bytes=10**6)
    talk.hear(b'{"id":1,"n":"echo","m":%b}\n' % PAD)
    with pytest.raises(AssertionError, match="ours"):
        talk.proceed()


async def test_many_lines_that_no_fast_way_takes_stop_when_their_peer_has_had_enough() -> None:
    talk = Conversing(max_in_flight=2, max_line_bytes=10**6)
    talk.backend.journal.held = True
    auth = b'{"id":%d,"n":"insert","m":{"type":"x","auth":{"user":"me"}}}\n'
    talk.hear(b"".join(auth % number for number in range(200)))
    assert talk.conversation.peer.in_flight == 2
    numbers = []
    for _ in range(100):
        talk.backend.journal.flush()
        talk.proceed()
        numbers += [answer["id"] for answer in talk.answers()]
    assert numbers == list(range(200))


async def test_many_calls_stop_when_their_peer_has_had_enough() -> None:
    talk = Conversing(max_in_flight=2)
    talk.backend.journal.held = True
    talk.hear(b"".join(b'{"id":%d,"n":"insert","m":[{"type":"x"}]}\n' % number for number in range(99)))
    numbers = []
    for _ in range(50):
        talk.backend.journal.flush()
        talk.proceed()
        numbers += [answer["id"] for answer in talk.answers()]
    assert numbers == list(range(99))


@pytest.mark.parametrize("name", ["push", "kick", "enqueue", "quti", "adopts", "quit ", "exit"])
async def test_nothing_that_does_harm_is_suggested(name: str) -> None:
    (answer,) = Conversing().hear(b'{"n":"%b"}\n' % name.encode())
    assert answer["e"]["message"] == f'unknown call "{name}"'


@pytest.mark.parametrize(("data_bytes", "counted_as"), [(200_000, "waiting_bytes"), (400_000, "open_bytes")])
async def test_a_line_that_is_worked_on_counts_as_received_until_it_is_done(data_bytes: int, counted_as: str) -> None:
    talk = Conversing(max_line_bytes=10**6)
    waiting = put_off(talk)
    talk.hear(b'{"id":1,"n":"insert","m":[{"type":"x","data":"%b"}]}\n' % (b"x" * data_bytes))
    talk.conversation.received.count()
    assert getattr(talk.context.lines, counted_as) > data_bytes
    finish(waiting.pop())
    talk.proceed()
    talk.conversation.received.count()
    assert talk.context.lines.waiting_bytes == talk.context.lines.open_bytes == 0


async def test_what_is_worked_on_is_dropped_with_what_waits() -> None:
    talk = Conversing(max_line_bytes=10**6)
    waiting = put_off(talk)
    talk.hear(b'{"id":1,"n":"insert","m":{"type":"x","data":%b}}\n' % PAD)
    next(waiting[0])
    talk.conversation.received.count()
    talk.conversation.drop()
    assert talk.context.lines.open_bytes == 0
    finish(waiting.pop())
    assert not talk.backend.journal.records
    assert talk.conversation.is_idle


async def test_of_long_lines_only_inserts_are_run_while_others_hold_too_many_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Conversing(max_line_bytes=10**6)
    talk.context.answers.is_crowded = True
    long = b'"%b"' % (b"x" * 400_000)
    insert = b'{"id":1,"n":"insert","m":[{"type":"x","data":%b}]}\n{"id":2,"n":"ping"}\n' % long
    assert [answer["id"] for answer in await talk.settled(insert)] == [2, 1]
    assert talk.hear(b'{"id":3,"n":"echo","m":%b}\n{"id":4,"n":"ping"}\n' % long) == []
    assert talk.conversation.is_full
    talk.context.answers.is_crowded = False
    assert [answer["id"] for answer in talk.hear(b"")] == [3, 4]
