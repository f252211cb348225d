"""What a minder takes from stderr: the end of it, but for lines that tell how far the command is."""

from __future__ import annotations

import random

import pytest

from kqs.minding.frames import PROGRESS_BYTES
from kqs.minding.said import may_be_kept
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
        (b"KQS-PROGRESS \n", b"", None),
        (b"KQS-PROGRESS 5\nKQS-PROGRESS {no\n", b"", b"5"),
        (b"KQS-PROGRESS 5\nKQS-PROGRESS NaN\na\nKQS-PROGRESS\t6\nKQS-PROGRESS \n", b"a\nKQS-PROGRESS\t6\n", b"5"),
        (b"KQS-PROGRESS {no\nKQS-PROGRESS null\n", b"", b"null"),
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
    (wrong,) = tail.take()
    assert len(wrong) == PROGRESS_BYTES + 1  # which shows that it is too long
    assert tail.data == b"no\n"


def test_what_is_no_progress_is_told_before_what_is_and_both_once() -> None:
    for written in (b"KQS-PROGRESS 5\nKQS-PROGRESS {no\n", b"KQS-PROGRESS {no\nKQS-PROGRESS 5\n"):
        for tail in (fed(written), fed(*[bytes((byte,)) for byte in written])):
            told = tail.take()
            assert told[-1] == b"5"
            assert set(told) <= {b"{no", b"5"}
            assert not tail.has_told
            assert tail.take() == []


def test_of_lines_in_one_piece_only_the_last_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []

    def counted(text: bytes) -> bool:
        read.append(text)
        return may_be_kept(text)

    monkeypatch.setattr("kqs.minding.tail.may_be_kept", counted)
    fed(b"".join(b"KQS-PROGRESS %d\n" % step for step in range(1000)))
    assert read == [b"999"]


def test_the_end_is_kept_beside_progress() -> None:
    tail = fed(*[b"KQS-PROGRESS 1\n" + b"x" * 99 + b"\n"] * 100)
    assert tail.is_cut
    assert tail.data == (b"x" * 99 + b"\n") * (ERRORS_BYTES // 100)
