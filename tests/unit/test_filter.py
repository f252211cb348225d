from __future__ import annotations

import pytest

from kqs.filter import MAX_PATTERN_BYTES, Pattern, PatternError


@pytest.mark.parametrize(
    ("pattern", "data", "is_in"),
    [
        ("needle", b'"a needle"', True),
        ("^needle", b'"a needle"', False),
        ("(?i)NEEDLE", b'"a needle"', True),
        ("é+$", '"é'.encode() + "é".encode(), True),
        ('"n":[1-3]\\b', b'{"n":3}', True),
        ("", b"null", True),
        ("a.c", '"aéc"'.encode(), True),
        ("a.c", b'"a\xffc"', False),
        ("x", b"\x00x", True),
    ],
)
def test_pattern_is_searched_in_bytes(pattern: str, data: bytes, is_in: bool) -> None:
    assert Pattern(pattern).is_in(data) is is_in


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("(a", "(a"),
        ("a**", "**"),
        ("[z-a]", "z-a"),
        ("a{1001}", "{1001}"),
        ("(?=a)", "(?="),
        ("x" * (MAX_PATTERN_BYTES + 1), "at most 1000 bytes"),
        ("é" * MAX_PATTERN_BYTES, "at most 1000 bytes, got 2000"),
        ("[ab]{300}", "too costly"),
        ("(a{50}){50}", "{50}"),
        ("\\p{L}", "too costly"),
    ],
)
def test_bad_or_costly_pattern_says_where(pattern: str, told: str) -> None:
    with pytest.raises(PatternError) as refused:
        Pattern(pattern)
    assert told in str(refused.value)
