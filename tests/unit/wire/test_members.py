import pytest
from msgspec import Raw, ValidationError

from kqs.wire.members import Reader, walking
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
