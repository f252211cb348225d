from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kqs.wire.arrays import split_array

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["},{", "]", '\\"', "\\", "[{", '"}']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(
    st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=12), st.integers(1, 5), st.sampled_from(["", " ", "\r\n\t"])
)
def test_the_pieces_are_the_array(objects: list[dict[str, object]], count: int, space: str) -> None:
    text = (space + "[" + space + f"{space},{space}".join(map(json.dumps, objects)) + space + "]" + space).encode()
    pieces = [msgspec.json.decode(piece) for piece in split_array(text, count)]
    assert [one for piece in pieces for one in piece] == objects
    assert all(len(piece) == count for piece in pieces[:-1])
    assert all(0 < len(piece) <= count for piece in pieces)


def test_a_piece_is_found_before_the_rest_is_looked_at() -> None:
    pieces = split_array(b'[{"a":1},{"b":2}' + b"this is never read", 1)
    assert [next(pieces), next(pieces)] == [b'[{"a":1}]', b'[{"b":2}]']


@pytest.mark.parametrize("data", [b'"' + b"\\\\" * 1_000_000 + b'"', b"[" * 1000 + b"]" * 1000, b'"' + b"},{" * 300_000 + b'"'])
def test_no_data_makes_it_look_twice(data: bytes) -> None:
    objects = b'{"data":%b}' % data
    assert list(split_array(b"[%b,%b]" % (objects, objects), 1)) == [b"[%b]" % objects] * 2
