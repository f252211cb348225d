"""What a server and its helper processes say to each other comes out as it went in, however it is cut."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from kqs.minding.command import Command
from kqs.minding.frames import (
    Ended,
    FrameReader,
    Kind,
    Order,
    Unstarted,
    decode_order,
    decode_report,
    encode_order,
    encode_report,
    encoded,
)
from kqs.minding.limits import Limits

NUMBERS = st.integers(0, 2**60)
#: as file names have them, too
WORDS = st.text() | st.binary().map(lambda name: name.decode(errors="surrogateescape"))
LIMITS = st.builds(Limits, NUMBERS, NUMBERS, NUMBERS)
COMMANDS = st.builds(Command, st.lists(WORDS, min_size=1), WORDS, NUMBERS, LIMITS)
ORDERS = st.builds(Order, COMMANDS, st.dictionaries(WORDS, WORDS), st.binary())
REPORTS = st.builds(Ended, st.integers(-64, 255), st.booleans(), st.booleans(), st.binary(), st.binary()) | st.builds(
    Unstarted, st.integers(0, 200), st.text(st.characters(codec="utf-8"))
)


@given(ORDERS)
def test_an_order_comes_as_it_was_given(order: Order) -> None:
    ((kind, body),) = FrameReader().receive_data(encode_order(order))
    assert (kind, decode_order(body)) == (Kind.ORDER, order)


@given(REPORTS)
def test_a_report_comes_as_it_was_given(report: Ended | Unstarted) -> None:
    ((kind, body),) = FrameReader().receive_data(encode_report(report))
    assert decode_report(kind, body) == report


@given(st.lists(st.tuples(st.sampled_from(Kind), st.binary()), max_size=5), st.lists(st.integers(0, 60)))
def test_frames_come_whole_however_they_are_cut(frames: list[tuple[Kind, bytes]], cuts: list[int]) -> None:
    data = b"".join(encoded(kind, body) for kind, body in frames)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    reader = FrameReader()
    found = [frame for start, end in itertools.pairwise(places) for frame in reader.receive_data(data[start:end])]
    assert found == frames
