"""What a minder takes from stderr: the end of it, but for lines that tell how far the command is."""

from __future__ import annotations

import random

import pytest

from kqs.job import MAX_PROGRESS_BYTES
from kqs.minding.frames import PROGRESS_BYTES
from kqs.minding.tail import ERRORS_BYTES, Tail


def fed(*pieces: bytes) -> Tail:
    tail = Tail()
    for piece in pieces:
        tail.receive_data(piece)
    tail.end()
    return tail


@pytest.mark.parametrize(
    ("written", "errors", "progress"),
    [
        (b"", b"", None),
        (b"no\n", b"no\n", None),
        (b"no", b"no", None),
        (b"KQS-PROGRESS 1\n", b"", b"1"),
        (b"KQS-PROGRESS 1\r\n", b"", b"1"),
        (b'KQS-PROGRESS   {"a": 1} \n', b"", b'{"a": 1}'),
        (b"KQS-PROGRESS 1\nKQS-PROGRESS 2\n", b"", b"2"),
        (b"KQS-PROGRESS 1\nKQS-PROGRESS 2", b"", b"1"),  # it may be 22 that was cut short
        (b"a\nKQS-PROGRESS 1\nb\n", b"a\nb\n", b"1"),
        (b"a\nKQS-PROGRESS 1\nb", b"a\nb", b"1"),
        (b"a KQS-PROGRESS 1\n", b"a KQS-PROGRESS 1\n", None),
        (b"KQS-PROGRESS\n", b"KQS-PROGRESS\n", None),
        (b"KQS-PROGRESS \n", b"", b""),
        (b"KQS-PROGRESSIVE\n", b"KQS-PROGRESSIVE\n", None),
        (b"kqs-progress 1\n", b"kqs-progress 1\n", None),
        (b"KQS-PRO", b"KQS-PRO", None),
        (b"K\nKQ\nKQS-PROGRESS 1\n\n\nK", b"K\nKQ\n\n\nK", b"1"),
    ],
)
def test_lines_of_progress_are_taken_out_however_they_are_cut(written: bytes, errors: bytes, progress: bytes | None) -> None:
    cuts = [[written], [written[at : at + 1] for at in range(len(written))]]
    cuts += [[written[:at], written[at:]] for at in range(len(written))]
    for pieces in cuts:
        tail = fed(*pieces)
        assert (tail.data, tail.progress, tail.is_cut) == (errors, progress, False), pieces


def test_what_is_taken_is_the_same_in_any_pieces() -> None:
    choice = random.Random(1)
    for _ in range(300):
        parts = (b"K", b"KQS-PROGRESS ", b"KQS-PROGRESS 12", b"x", b"\n", b"\nK", b"yy\n")
        written = b"".join(choice.choice(parts) for _ in range(12))
        whole, pieces, at = fed(written), [], 0
        while at < len(written):
            pieces.append(written[at : (at := at + choice.randint(1, 9))])
        cut = fed(*pieces)
        assert (cut.data, cut.progress) == (whole.data, whole.progress), pieces


def test_a_line_without_end_takes_no_memory() -> None:
    tail = Tail()
    tail.receive_data(b"KQS-PROGRESS ")
    for _ in range(1000):
        tail.receive_data(b"9" * 1000)
    assert len(tail._begun) < 3 * PROGRESS_BYTES
    tail.receive_data(b"\nno\n")
    assert tail.progress is not None
    assert len(tail.progress) == PROGRESS_BYTES + 1  # which shows that it is too long
    assert tail.data == b"no\n"


def test_the_end_is_kept_beside_progress() -> None:
    tail = fed(*[b"KQS-PROGRESS 1\n" + b"x" * 99 + b"\n"] * 100)
    assert tail.is_cut
    assert tail.data == (b"x" * 99 + b"\n") * (ERRORS_BYTES // 100)


def test_the_bounds_are_one() -> None:
    assert PROGRESS_BYTES == MAX_PROGRESS_BYTES
