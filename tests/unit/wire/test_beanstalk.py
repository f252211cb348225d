from __future__ import annotations

from pathlib import Path

import pytest

from kqs.wire.beanstalk import commands
from kqs.wire.beanstalk.commands import (
    Bury,
    Command,
    Delete,
    Put,
    Release,
    ReserveWithTimeout,
    Stats,
    Use,
)
from kqs.wire.beanstalk.replies import DamagedBodyError, ReplyReader
from kqs.wire.beanstalk.tubes import tube_of, type_of
from kqs.wire.beanstalk.values import (
    Buried,
    Inserted,
    Ok,
    Reply,
    Reserved,
    Using,
    Watching,
    Word,
)
from tests.support.beanstalk_script import SCRIPT, read_transcript

PUT = Put(1, 2, 3, b"body")


def reading(*asked: Command, max_body_bytes: int = 100) -> ReplyReader:
    reader = ReplyReader(max_body_bytes)
    reader.expect(asked)
    return reader


def fault_of(data: bytes, *asked: Command) -> str:
    """Return why the answer is refused; nothing may have come of it."""
    reader = reading(*asked)
    assert reader.receive_data(data) == []
    assert reader.fault is not None
    return str(reader.fault)


@pytest.mark.parametrize(
    ("command", "sent"),
    [
        (PUT, b"put 1 2 3 4\r\nbody\r\n"),
        (Put(0, 0, 0, b""), b"put 0 0 0 0\r\n\r\n"),
        (Use("kq-mail"), b"use kq-mail\r\n"),
        (ReserveWithTimeout(0), b"reserve-with-timeout 0\r\n"),
        (Delete(2**64 - 1), b"delete 18446744073709551615\r\n"),
        (Release(7, 2**32 - 1, 5), b"release 7 4294967295 5\r\n"),
        (Bury(7, 8), b"bury 7 8\r\n"),
        (commands.Watch("a" * 200), b"watch " + b"a" * 200 + b"\r\n"),
        (commands.Ignore("default"), b"ignore default\r\n"),
        (commands.StatsTube("a-b"), b"stats-tube a-b\r\n"),
        (Stats(), b"stats\r\n"),
        (commands.ListTubes(), b"list-tubes\r\n"),
    ],
)
def test_a_command_encodes_as_the_protocol_has_it(command: Command, sent: bytes) -> None:
    assert command.encode() == sent


@pytest.mark.parametrize(
    "command",
    [
        Put(-1, 0, 0, b""),
        Put(0, 2**32, 0, b""),
        Put(0, 0, 2**32, b""),
        Delete(-1),
        Delete(2**64),
        Use(""),
        Use("-a"),
        Use("a" * 201),
        Use("a b"),
        Use("a\r\nstats"),
        Use("a\n"),
        Use("ü"),
    ],
)
def test_what_the_server_would_call_malformed_is_never_sent(command: Command) -> None:
    with pytest.raises(ValueError):
        command.encode()


@pytest.mark.parametrize(
    ("command", "data", "reply"),
    [
        (PUT, b"INSERTED 12\r\n", Inserted(12)),
        (PUT, b"BURIED 12\r\n", Buried(12)),
        (PUT, b"EXPECTED_CRLF\r\n", Word.EXPECTED_CRLF),
        (PUT, b"JOB_TOO_BIG\r\n", Word.JOB_TOO_BIG),
        (PUT, b"DRAINING\r\n", Word.DRAINING),
        (Use("t"), b"USING t\r\n", Using("t")),
        (ReserveWithTimeout(9), b"RESERVED 3 4\r\n\r\n\r\n\r\n", Reserved(3, b"\r\n\r\n")),
        (ReserveWithTimeout(9), b"RESERVED 3 0\r\n\r\n", Reserved(3, b"")),
        (ReserveWithTimeout(9), b"DEADLINE_SOON\r\n", Word.DEADLINE_SOON),
        (ReserveWithTimeout(9), b"TIMED_OUT\r\n", Word.TIMED_OUT),
        (Delete(3), b"DELETED\r\n", Word.DELETED),
        (Release(3, 0, 0), b"RELEASED\r\n", Word.RELEASED),
        (Release(3, 0, 0), b"BURIED\r\n", Word.BURIED),
        (Bury(3, 0), b"BURIED\r\n", Word.BURIED),
        (commands.Watch("t"), b"WATCHING 2\r\n", Watching(2)),
        (commands.Ignore("t"), b"NOT_IGNORED\r\n", Word.NOT_IGNORED),
        (Stats(), b"OK 4\r\n---\n\r\n", Ok(b"---\n")),
    ],
)
def test_a_reply_is_a_value(command: Command, data: bytes, reply: Reply) -> None:
    reader = reading(command)
    assert reader.receive_data(data) == [reply]
    assert (reader.fault, reader.expected_count) == (None, 0)


@pytest.mark.parametrize("word", [Word.OUT_OF_MEMORY, Word.INTERNAL_ERROR, Word.UNKNOWN_COMMAND])
def test_an_error_may_answer_any_command(word: Word) -> None:
    reader = reading(Delete(1), Delete(2))
    assert reader.receive_data(word.value + b"\r\nDELETED\r\n") == [word, Word.DELETED]
    assert reader.fault is None


def test_bad_format_is_handed_on_and_ends_the_stream() -> None:
    reader = reading(PUT, PUT)
    assert reader.receive_data(b"BAD_FORMAT\r\nINSERTED 1\r\n") == [Word.BAD_FORMAT]
    assert "BAD_FORMAT" in str(reader.fault)
    assert reader.receive_data(b"INSERTED 2\r\n") == []


def test_replies_before_a_fault_stand() -> None:
    reader = reading(Delete(1), Delete(2), Delete(3))
    assert reader.receive_data(b"DELETED\r\nINSERTED 1\r\nDELETED\r\n") == [Word.DELETED]
    assert str(reader.fault) == "Delete answered by b'INSERTED 1'"


@pytest.mark.parametrize(
    ("command", "data"),
    [
        (PUT, b"DELETED\r\n"),
        (PUT, b"BURIED\r\n"),
        (Bury(1, 0), b"BURIED 1\r\n"),
        (Delete(1), b"TIMED_OUT\r\n"),
        (Use("a"), b"USING b\r\n"),
    ],
)
def test_a_reply_that_cannot_belong_to_its_command_ends_the_stream(command: Command, data: bytes) -> None:
    assert f"{type(command).__name__} answered by" in fault_of(data, command)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"deleted",
        b"DELETED ",
        b"INSERTED",
        b"INSERTED x",
        b"INSERTED -1",
        b"INSERTED 1 2",
        b"INSERTED 18446744073709551616",
        b"INSERTED " + b"1" * 30,
        b"RESERVED 1",
        b"RESERVED 1 x",
        b"OK x",
        b"HTTP/1.1 400 Bad Request",
    ],
)
def test_what_is_no_reply_ends_the_stream(line: bytes) -> None:
    assert "not a" in fault_of(line + b"\r\n", PUT)


def test_a_reply_that_nobody_asked_for_ends_the_stream() -> None:
    assert "nobody asked" in fault_of(b"DELETED\r\n")


def test_a_line_without_end_ends_the_stream() -> None:
    assert "without end" in fault_of(b"x" * 300, PUT)


def test_the_longest_line_is_read() -> None:
    reader = reading(Use("t" * 200))
    assert reader.receive_data(b"USING " + b"t" * 200 + b"\r") == []
    assert reader.receive_data(b"\n") == [Using("t" * 200)]


def test_a_body_over_the_limit_is_not_waited_for() -> None:
    assert "over 100 bytes" in fault_of(b"RESERVED 1 101\r\n", ReserveWithTimeout(9))


def test_a_body_may_come_in_pieces() -> None:
    reader = reading(ReserveWithTimeout(9), Delete(1))
    assert [reader.receive_data(piece) for piece in (b"RESERVED 1 4\r\n", b"bo", b"dy\r")] == [[], [], []]
    assert reader.receive_data(b"\nDELETED\r\n") == [Reserved(1, b"body"), Word.DELETED]


def test_a_body_must_end_where_it_was_said_to() -> None:
    assert "does not end" in fault_of(b"RESERVED 1 1\r\nxyz", ReserveWithTimeout(9))


@pytest.mark.parametrize(("line", "asked", "job_id"), [(b"RESERVED 7 1", ReserveWithTimeout(9), 7), (b"OK 1", Stats(), None)])
def test_a_damaged_body_tells_whose_it_is(line: bytes, asked: Command, job_id: int | None) -> None:
    reader = reading(asked)
    reader.receive_data(line + b"\r\nxyz")
    assert isinstance(reader.fault, DamagedBodyError)
    assert reader.fault.job_id == job_id


def test_stats_are_names_and_values() -> None:
    stats = Ok(b'---\nid: 91\nversion: "1.12"\nodd\n').stats()
    assert stats == {"id": "91", "version": "1.12"}


def test_lists_are_names() -> None:
    assert Ok(b'---\n- default\n- "kq-a"\n').names() == ["default", "kq-a"]


def test_the_transcript_of_a_real_server_is_understood() -> None:
    transcript = read_transcript(Path(__file__).parents[2] / "golden" / "beanstalkd-1.12.txt")
    reader = ReplyReader()
    for (connection, command), (sent, answer) in zip(SCRIPT, transcript, strict=True):
        assert sent == command.encode(), connection
        reader.expect([command])
        assert len(reader.receive_data(answer)) == 1
        assert reader.fault is None or answer == b"BAD_FORMAT\r\n"


@pytest.mark.parametrize(
    ("type_", "tube"),
    [
        ("mail", "kq-mail"),
        ("a.b/c+d_e(f)-g", "kq-a.b/c+d_e(f)-g"),
        ("a b", "kq-a$20b"),
        ("a$b;c", "kq-a$24b$3Bc"),
        ("ü", "kq-$C3$BC"),
        ("a\r\nstats", "kq-a$0D$0Astats"),
        ("x" * 197, "kq-" + "x" * 197),
    ],
)
def test_a_type_is_a_tube_and_back(type_: str, tube: str) -> None:
    assert tube_of(type_) == tube
    assert type_of(tube) == type_
    assert Use(tube).encode()


def test_a_type_too_long_for_a_name_goes_by_its_hash() -> None:
    tube = tube_of("x" * 198)
    assert tube.startswith("kq-$$")
    assert tube != tube_of("x" * 199)
    assert type_of(tube) is None
    assert Use(tube_of("ü" * 100, "n" * 32)).encode()


def test_a_namespace_stands_in_front() -> None:
    assert tube_of("mail", "eu") == "eu;kq-mail"
    assert type_of("eu;kq-mail", "eu") == "mail"
    assert type_of("eu;kq-mail") is None
    assert type_of("kq-mail", "eu") is None
    assert Use(tube_of("mail", "-x")).encode()


@pytest.mark.parametrize("tube", ["default", "kq-", "kq-a;b", "kq-$2", "kq-$61", "kq-$FF", "kq-ü", "kq-" + "x" * 198])
def test_tubes_of_others_have_no_type(tube: str) -> None:
    assert type_of(tube) is None
