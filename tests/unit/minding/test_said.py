"""What a minder takes for progress is what the server keeps."""

from __future__ import annotations

import random

import pytest

from kqs.job import MAX_PROGRESS_BYTES
from kqs.made.progress import checked_progress
from kqs.made.values import MAX_LEVELS
from kqs.minding.frames import PROGRESS_BYTES
from kqs.minding.said import LEVELS, may_be_kept

KEPT = [
    b"5",
    b"null",
    b"-0.5e+3",
    b"1e400",
    b"9" * 6000,
    b'{"a":[1,"x\\u00e9\\ud83d\\ude00",{}],"a":true}',
    '"\u2028\x85\x7f\U0001f600"'.encode(),
    b'"\\\\ud83d"',
    b'"' + b"[" * 70 + b'\\""',
    b"[" * MAX_LEVELS + b"]" * MAX_LEVELS,
    b"[" + b"[]," * 80 + b"1]",
    b'"' + b"x" * (MAX_PROGRESS_BYTES - 2) + b'"',
]
NOT_KEPT = [
    b"",
    b"{no",
    b"1 2",
    b"NaN",
    b"-Infinity",
    b"01",
    b"1.",
    b"[1,]",
    b"\xef\xbb\xbf1",
    b'"\xff"',
    b'"\xed\xa0\x80"',
    b'"\x01"',
    b'"\\ud83d"',
    b'{"a":"\\ud83d","a":1}',
    b'"\\u12g4"',
    "1".encode("utf-16"),
    b"[" * (MAX_LEVELS + 1) + b"]" * (MAX_LEVELS + 1),
    b'{"a":' * 1000 + b"1" + b"}" * 1000,
    b"[" * MAX_PROGRESS_BYTES,
    b'"' + b"x" * (MAX_PROGRESS_BYTES - 1) + b'"',
]
SPLICED = [
    *(b'"', b"\\", b"u", b"0", b"[", b"]", b"{", b"}", b":", b","),
    *(b"e", b"-", b"\xc3", b"\xa9", b" ", b"\x1f", b"\\ud83d", b"null"),
]


def is_kept(text: bytes) -> bool:
    try:
        checked_progress(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("text", KEPT)
def test_what_the_server_keeps_may_be_kept(text: bytes) -> None:
    assert (may_be_kept(text), is_kept(text)) == (True, True)


@pytest.mark.parametrize("text", NOT_KEPT)
def test_what_the_server_refuses_may_not(text: bytes) -> None:
    assert (may_be_kept(text), is_kept(text)) == (False, False)


def test_the_server_reads_it_alike_whatever_is_done_to_it() -> None:
    choice = random.Random(1)
    short = [text for text in KEPT + NOT_KEPT if len(text) < 200]
    for _ in range(5000):
        text = choice.choice(short)
        for _ in range(choice.randint(1, 4)):
            at = choice.randint(0, len(text))
            text = text[:at] + choice.choice(SPLICED) + text[at + choice.randint(0, 1) :]
        text = text.strip()
        assert may_be_kept(text) == is_kept(text), text


def test_the_bounds_are_one() -> None:
    assert (PROGRESS_BYTES, LEVELS) == (MAX_PROGRESS_BYTES, MAX_LEVELS)
