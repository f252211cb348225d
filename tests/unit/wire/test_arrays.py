from __future__ import annotations

import json
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kqs.wire import scan
from kqs.wire.arrays import split_array
from kqs.wire.scan import SHORT_BYTES

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


@given(st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=12), st.integers(1, 5), st.integers(3, 40))
def test_the_pieces_of_a_long_array_are_those_of_a_short_one(
    objects: list[dict[str, object]], count: int, block_bytes: int
) -> None:
    text = json.dumps(objects).encode()
    with patch.object(scan, "BLOCK_BYTES", block_bytes), patch.object(scan, "SHORT_BYTES", 2 * block_bytes):
        pieces = list(split_array(text, count))
    assert pieces == list(split_array(text, count))


def test_a_piece_is_found_before_the_rest_is_looked_at() -> None:
    objects = b'{"a":1},' * SHORT_BYTES
    pieces = split_array(b"[%b this is never read" % objects, 2)
    assert [next(pieces), next(pieces)] == [b'[{"a":1},{"a":1}]'] * 2


@pytest.mark.parametrize("data", [b'"' + b"\\\\" * 1_000_000 + b'"', b"[" * 60 + b"]" * 60, b'"' + b"},{" * 300_000 + b'"'])
def test_whatever_is_in_an_object_it_ends_where_it_ends(data: bytes) -> None:
    objects = b'{"data":%b}' % data
    assert list(split_array(b"[%b,%b]" % (objects, objects), 1)) == [b"[%b]" % objects] * 2
