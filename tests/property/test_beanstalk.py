"""The beanstalkd codec against every split, every reply and garbage; tube names against every type."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from kqs.wire.beanstalk import commands as c
from kqs.wire.beanstalk.replies import ReplyReader
from kqs.wire.beanstalk.tubes import tube_of, type_of
from kqs.wire.beanstalk.values import ANYTIME, Buried, Inserted, Ok, Reply, Reserved, Using, Watching, Word

ids = st.integers(0, 2**64 - 1)
numbers = st.integers(0, 2**32 - 1)
tubes = st.text(string.ascii_letters + "+/;.$_()", min_size=1, max_size=200)
bodies = st.binary(max_size=40) | st.sampled_from([b"\r\n", b"DELETED\r\n", b"RESERVED 1 2\r\n\r\n\r\n"])

COMMANDS = st.one_of(
    st.builds(c.Put, numbers, numbers, numbers, bodies),
    st.builds(c.Use, tubes),
    st.builds(c.ReserveWithTimeout, numbers),
    st.builds(c.Delete, ids),
    st.builds(c.Release, ids, numbers, numbers),
    st.builds(c.Bury, ids, numbers),
    *(st.builds(kind, tubes) for kind in (c.Watch, c.Ignore, c.StatsTube)),
    *(st.just(kind()) for kind in (c.Stats, c.ListTubes)),
)


def encode(reply: Reply) -> bytes:
    """A reply as a server sends it, by the protocol's text."""
    match reply:
        case Word():
            line = reply.value
        case Inserted(number) | Buried(number) | Watching(number):
            line = b"%b %d" % (type(reply).__name__.upper().encode(), number)
        case Using(tube):
            line = b"USING " + tube.encode()
        case Reserved(number, body):
            line = b"RESERVED %d %d\r\n%b" % (number, len(body), body)
        case Ok(body):
            line = b"OK %d\r\n%b" % (len(body), body)
    return line + b"\r\n"


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[c.Command, Reply]:
    """A command and an answer that it may get, BAD_FORMAT aside."""
    command = draw(COMMANDS)
    kind = draw(st.sampled_from(sorted([*command.answers, *(ANYTIME - {Word.BAD_FORMAT})], key=str)))
    if isinstance(kind, Word):
        return command, kind
    if kind is Reserved:
        return command, Reserved(draw(ids), draw(bodies))
    if kind is Using:
        return command, Using(getattr(command, "tube", draw(tubes)))
    reply: Reply = Ok(draw(bodies)) if kind is Ok else kind(draw(ids))
    return command, reply


@st.composite
def splits(draw: st.DrawFn, data: bytes) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@given(st.lists(exchanges(), max_size=8), st.data())
def test_any_split_gives_the_same_replies(exchanged: list[tuple[c.Command, Reply]], data: st.DataObject) -> None:
    reader = ReplyReader()
    reader.expect(command for command, _ in exchanged)
    stream = b"".join(encode(reply) for _, reply in exchanged)
    got = [reply for piece in data.draw(splits(stream)) for reply in reader.receive_data(piece)]
    assert got == [reply for _, reply in exchanged]
    assert (reader.fault, reader.expected_count) == (None, 0)


@given(st.lists(exchanges(), min_size=1, max_size=4))
def test_byte_by_byte_gives_the_same_replies(exchanged: list[tuple[c.Command, Reply]]) -> None:
    reader = ReplyReader()
    reader.expect(command for command, _ in exchanged)
    stream = b"".join(encode(reply) for _, reply in exchanged)
    got = [reply for place in range(len(stream)) for reply in reader.receive_data(stream[place : place + 1])]
    assert got == [reply for _, reply in exchanged]


@given(
    st.lists(COMMANDS, max_size=4),
    st.binary(max_size=400)
    | st.lists(st.sampled_from([b"RESERVED 1 2\r\n", b"xx\r\n", b"DELETED\r\n", b"INSERTED 7\r\n", b"OK 3\r\n"])).map(b"".join),
    st.data(),
)
def test_garbage_is_a_fault_or_a_wait_and_never_credited(asked: list[c.Command], garbage: bytes, data: st.DataObject) -> None:
    reader = ReplyReader(100)
    reader.expect(asked)
    got = [reply for piece in data.draw(splits(garbage)) for reply in reader.receive_data(piece)]
    for command, reply in zip(asked, got, strict=False):
        assert reply in ANYTIME or (reply if isinstance(reply, Word) else type(reply)) in command.answers
    assert len(got) <= len(asked)


@given(st.lists(exchanges(), min_size=2, max_size=6), st.data())
def test_a_lost_reply_is_never_made_up_for(exchanged: list[tuple[c.Command, Reply]], data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, len(exchanged) - 1))
    reader = ReplyReader()
    reader.expect(command for command, _ in exchanged)
    got = reader.receive_data(b"".join(encode(reply) for place, (_, reply) in enumerate(exchanged) if place != lost))
    assert got[:lost] == [reply for _, reply in exchanged[:lost]]
    assert reader.fault is not None or reader.expected_count == 1


@given(COMMANDS)
def test_a_command_is_one_line_within_the_limit(command: c.Command) -> None:
    sent = command.encode()
    line, _, rest = sent.partition(b"\r\n")
    assert len(line) + 2 <= 224
    assert rest == (command.body + b"\r\n" if isinstance(command, c.Put) else b"")


types = st.text(min_size=1, max_size=70).filter(lambda text: len(text.encode("utf-8", "ignore")) <= 200)


@given(types.filter(lambda text: text.isprintable()) | types, st.text(string.printable, max_size=8))
def test_a_type_is_a_legal_tube_and_back(type_: str, namespace: str) -> None:
    if any("\ud800" <= char <= "\udfff" for char in type_):
        return
    tube = tube_of(type_, namespace)
    assert c.Use(tube).encode()
    assert type_of(tube, namespace) == (None if "$$" in tube else type_)


@given(st.sets(st.tuples(st.text("a-;$k", max_size=3), st.text("aq-;$k", min_size=1, max_size=6)), min_size=2, max_size=6))
def test_no_two_fleets_and_types_share_a_tube(names: set[tuple[str, str]]) -> None:
    assert len({tube_of(type_, namespace) for namespace, type_ in names}) == len(names)


@given(st.text("kq-$;0AFax" + string.printable, max_size=12))
def test_any_tube_name_is_understood_or_refused(tube: str) -> None:
    type_ = type_of(tube)
    assert type_ is None or tube_of(type_) == tube
