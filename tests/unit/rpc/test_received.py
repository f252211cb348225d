"""What a peer has sent that was not run yet."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest

from kqs.rpc.lines import Lines
from kqs.rpc.received import LONG_CHUNK_BYTES, PIECE_BYTES, Received, Rest, SingleLines
from kqs.wire.call import Call
from kqs.wire.lines import TooLong

MAX_LINE_BYTES = 1000


@pytest.fixture
def lines() -> Lines:
    return Lines(sys.maxsize, sys.maxsize)


@pytest.fixture
def received(lines: Lines) -> Received:
    return Received(MAX_LINE_BYTES, lines)


def counted(received: Received, lines: Lines) -> tuple[int, int]:
    """What counts of it as an unfinished line, and what as waiting."""
    received.count()
    return lines.open_bytes, lines.waiting_bytes


def test_lines_and_the_beginning_of_one_are_counted_apart(received: Received, lines: Lines) -> None:
    received.receive_data(b"one\ntwo\nthr")
    assert list(received.pieces) == [b"one\ntwo\n"]
    assert counted(received, lines) == (3, 8)
    assert received.is_counted
    received.pieces.clear()
    received.drop_line()
    assert counted(received, lines) == (0, 0)
    assert not received.is_counted


def test_a_line_over_the_limit_is_a_piece_that_counts_nothing(received: Received, lines: Lines) -> None:
    received.receive_data(b"x" * (MAX_LINE_BYTES + 1))
    assert list(received.pieces) == [TooLong.TOO_LONG]
    assert counted(received, lines) == (0, 0)


@pytest.mark.parametrize(
    ("size", "counts"), [(LONG_CHUNK_BYTES, (0, LONG_CHUNK_BYTES)), (LONG_CHUNK_BYTES + 1, (LONG_CHUNK_BYTES + 1, 0))]
)
def test_what_is_worked_on_counts_as_it_was_received(
    received: Received, lines: Lines, size: int, counts: tuple[int, int]
) -> None:
    received.worked_on_bytes = size
    assert counted(received, lines) == counts
    received.worked_on_bytes = 0
    assert counted(received, lines) == (0, 0)


def test_what_is_put_back_comes_first_and_counts(received: Received, lines: Lines) -> None:
    received.receive_data(b"last\n")
    received.put_back(SingleLines(b"lines\n"))
    calls = [Call("ping"), Call("ping")]
    received.put_back_calls(calls, 10)
    assert counted(received, lines)[1] > len(b"lines\nlast\n") + 10
    first, second, third = received.pieces
    assert isinstance(first, Rest)
    assert first.calls is calls
    assert (second, third) == (SingleLines(b"lines\n"), b"last\n")
    received.drop()
    assert counted(received, lines) == (0, 0)


@pytest.mark.parametrize(
    "sizes", [[1] * PIECE_BYTES, [PIECE_BYTES, 10], [10, 3 * PIECE_BYTES, 10], [3 * PIECE_BYTES, PIECE_BYTES // 2 + 1]]
)
def test_a_chunk_is_cut_at_the_ends_of_lines_into_as_few_pieces_as_may_be(received: Received, sizes: Sequence[int]) -> None:
    chunk = b"".join(b"x" * size + b"\n" for size in sizes)
    assert received.cut_up(chunk)
    pieces = [piece for piece in received.pieces if isinstance(piece, bytes)]
    assert b"".join(pieces) == chunk
    assert all(piece.endswith(b"\n") and (len(piece) <= PIECE_BYTES or piece.count(b"\n") == 1) for piece in pieces)


@pytest.mark.parametrize("chunk", [b"a\nb\n", b"x" * 3 * PIECE_BYTES + b"\n"])
def test_one_piece_is_not_cut(received: Received, chunk: bytes) -> None:
    assert not received.cut_up(chunk)
    assert not received.pieces
