import pytest
from msgspec import Raw, ValidationError

from kqs.errors import CallError
from kqs.wire.members import Reader, checking_keys, walking
from kqs.wire.scan import SHORT_BYTES

READER = Reader("a", "b")
PAD = b'"' + b"x" * SHORT_BYTES + b'"'


def walked(text: bytes) -> list[tuple[str, bytes]]:
    return [(member.key, text[member.start : member.end]) for member in walking(text, READER, {}) if member is not None]


def test_the_values_of_known_keys_are_read() -> None:
    assert READER.read(b' {"a":1, "c":2, "b" : [ 3]}') == {"a": Raw(b"1"), "b": Raw(b"[ 3]")}
    assert READER.read(b'{"a":1,"a":2}') == {"a": Raw(b"2")}
    with pytest.raises(ValidationError):
        READER.read(b"[]")


def test_members_are_found_where_they_stand() -> None:
    text = rb' { "a" : [1,{"x":2}] ,"\u0062":"{,\":}", "c":1}'
    assert walked(text) == [("a", b'"a" : [1,{"x":2}] '), ("b", rb'"\u0062":"{,\":}"'), ("c", b'"c":1')]
    assert walked(b" {} ") == walked(b"{ }") == []


def test_a_value_is_not_taken_for_the_later_one_of_the_same_key() -> None:
    assert walked(b'{"a":12,"a":1}') == [("a", b'"a":12'), ("a", b'"a":1')]
    assert walked(b'{"a":[1],"a":[1,2],"a":[1]}') == [("a", b'"a":[1]'), ("a", b'"a":[1,2]'), ("a", b'"a":[1]')]


def test_members_of_a_long_object_are_found_where_they_stand() -> None:
    members = [b'"a":' + PAD, b'"b":1 ', b'"c": [' + PAD + b"]", b'"a":2', b'"' + b"k" * SHORT_BYTES + b'" : 5']
    found = walked(b"{" + b",".join(members) + b"}")
    assert [text for _, text in found] == members
    assert [key for key, _ in found[:4]] == ["a", "b", "c", "a"]
    assert found[4][0].startswith("k" * 60)


@pytest.mark.parametrize("key", ["é" * 100, "\U0001f600" * 100])
def test_a_long_key_is_cut_after_whole_characters(key: str) -> None:
    (found,) = walked(f'{{"{key}":1}}'.encode())
    assert key.startswith(found[0])
    assert found[1] == f'"{key}":1'.encode()


def test_many_members_are_many_steps() -> None:
    text = b"{" + b",".join(b'"k%d":%d' % (number, number) for number in range(2000)) + b"}"
    assert sum(member is None for member in walking(text, READER, {})) >= 3
    assert len(walked(text)) == 2000


def steps_of(text: bytes, *keys: str) -> int:
    """In how many steps the keys of an object are checked."""
    return sum(1 for _ in checking_keys(text, Reader(*keys)))


def test_a_short_object_with_each_known_key_once_is_not_walked() -> None:
    assert steps_of(b'{"open":true,"then":{"type":"a","open":1}}', "id", "then") == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b'{"open":true,"open":false}', "open: stands twice"),
        (b'{"open":true,"\\u006fpen":false}', "open: stands twice"),
        (b'{"open":true,"then":{"open":1},"opne":1}', 'unknown field "opne"; the nearest known one is "open"'),
    ],
)
def test_a_key_that_stands_twice_or_is_not_known_is_refused(text: bytes, told: str) -> None:
    with pytest.raises(CallError) as refused:
        steps_of(text, "open", "then")
    assert str(refused.value) == told


def test_the_keys_of_a_long_object_are_checked_in_steps() -> None:
    text = b'{"open":[%b1],"then":1}' % (b"1," * 200_000)
    assert steps_of(text, "open", "then") > 0
    with pytest.raises(CallError, match="stands twice"):
        steps_of(text[:-1] + b',"then":2}', "open", "then")
