import pytest

from kqs.wire.lines import TOO_LONG, LineBuffer


def fed(limit: int, *pieces: bytes) -> list[object]:
    lines = LineBuffer(limit)
    return [event for piece in pieces for event in lines.receive_data(piece)]


def test_all_whole_lines_come_as_one_chunk() -> None:
    assert fed(9, b"a\nb\r\n\nc\n") == [b"a\nb\r\n\nc\n"]


def test_an_open_line_is_kept_and_joined_with_its_rest() -> None:
    lines = LineBuffer(9)
    assert lines.receive_data(b"a\nbc") == [b"a\n"]
    assert lines.buffered_bytes == 2
    assert lines.receive_data(b"d") == []
    assert lines.receive_data(b"\ne\n") == [b"bcd\ne\n"]
    assert lines.buffered_bytes == 0


def test_a_line_cut_by_the_end_of_input_is_never_passed_on() -> None:
    assert fed(99, b'{"n":"ping"}') == []


def test_no_data_is_nothing() -> None:
    assert fed(9, b"") == []


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("length", [4, 5])
def test_a_line_up_to_the_limit_passes(length: int, ending: bytes) -> None:
    line = b"x" * length + ending
    assert fed(5, line) == [line]
    assert fed(5, *(line[at : at + 1] for at in range(len(line)))) == [line]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_a_line_over_the_limit_costs_one_mark(ending: bytes) -> None:
    line = b"x" * 6 + ending
    assert fed(5, line) == [TOO_LONG]
    assert fed(5, *(line[at : at + 1] for at in range(len(line)))) == [TOO_LONG]


def test_the_neighbours_of_a_long_line_survive() -> None:
    assert fed(3, b"a\nb\n1234\nc\nd\n") == [b"a\nb\n", TOO_LONG, b"c\nd\n"]
    assert fed(3, b"1234\n5678\nc\n") == [TOO_LONG, TOO_LONG, b"c\n"]


def test_a_chunk_may_be_longer_than_the_limit() -> None:
    assert fed(3, b"abc\nabc\nabc\n") == [b"abc\nabc\nabc\n"]


def test_a_long_line_is_told_at_once_and_its_rest_is_not_kept() -> None:
    lines = LineBuffer(3)
    assert lines.receive_data(b"a\n12345") == [b"a\n", TOO_LONG]
    assert lines.receive_data(b"678") == []
    assert lines.buffered_bytes == 0
    assert lines.receive_data(b"9\nok\nnext") == [b"ok\n", TOO_LONG]


def test_a_carriage_return_at_the_limit_that_ends_no_line_is_too_long() -> None:
    assert fed(3, b"123\r", b"4\n") == [TOO_LONG]


def test_the_rest_of_a_long_line_may_end_a_delivery() -> None:
    assert fed(3, b"12345", b"6\n", b"ok\n") == [TOO_LONG, b"ok\n"]
