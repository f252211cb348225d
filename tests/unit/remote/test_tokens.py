"""What names a run: it comes back as it went, and nothing else does."""

from __future__ import annotations

import string

import pytest
from crc32c import crc32c
from hypothesis import assume, given
from hypothesis import strategies as st

from kqs.job import Claim, Run
from kqs.remote.tokens import Named, Tokens

STORE = Tokens("0123456789abcdef")
IDS = st.text(string.ascii_letters + string.digits + "._:-", min_size=1, max_size=200)
RUNS = st.builds(
    lambda order, id_, attempt, returned, epoch: Run(
        Claim(order, id_, attempt + returned, epoch), "mail", 1, b"null", None, returned=returned
    ),
    st.integers(0, 2**63 - 1),
    IDS,
    st.integers(1, 2**31),
    st.integers(0, 2**31),
    st.integers(0, 2**63 - 1),
)


@given(run=RUNS)
def test_a_token_names_the_claim_and_the_attempt_it_was_made_of(run: Run) -> None:
    token = STORE.of(run)
    assert STORE.named(token) == Named(run.claim, run.attempt)
    assert len(token) <= 300
    assert token.isascii()
    assert token.isprintable()


@given(run=RUNS, at=st.integers(0, 400), other=st.characters(codec="utf-8"))
def test_no_altered_character_is_overlooked(run: Run, at: int, other: str) -> None:
    token = STORE.of(run)
    at %= len(token)
    assume(token[at] != other)
    assert STORE.named(token[:at] + other + token[at + 1 :]) is None


@given(run=RUNS, at=st.integers(0, 400), other=st.sampled_from(string.hexdigits + "._:-"))
def test_no_character_more_or_less_is_overlooked(run: Run, at: int, other: str) -> None:
    token = STORE.of(run)
    at %= len(token)
    assert STORE.named(token[:at] + other + token[at:]) is None
    assert STORE.named(token[:at] + token[at + 1 :]) is None
    assert STORE.named(token[:at]) is None


@given(run=RUNS, store_id=st.text(max_size=40))
def test_another_stores_token_is_none_of_ours(run: Run, store_id: str) -> None:
    other = Tokens(store_id)
    assume(other._seed != STORE._seed)
    assert other.named(STORE.of(run)) is None


@given(run=RUNS, other=RUNS)
def test_no_two_claims_have_one_token(run: Run, other: Run) -> None:
    assume(run.claim != other.claim)
    assert STORE.of(run) != STORE.of(other)


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "x", "\0", "é" * 10, "\U0001f600", "0" * 8, "00000000.1.1.1.1.a", "1" * 1_000_000, "." * 100_000,
        "00000000." + "1." * 100_000, "00000000.1.1.1.1." + "a" * 100_000, "00000000.\N{ARABIC-INDIC DIGIT ONE}.1.1.1.a",
        "00000000.11111111111111111.1.1.1.a", "00000000.1.1.1.1.a\n", "00000000.1.1.1.1.a b", "00000000.-1.1.1.1.a",
    ],
    ids=lambda text: repr(text[:30]),
)  # fmt: skip
def test_what_is_no_token_names_nothing(text: str) -> None:
    assert STORE.named(text) is None


@given(text=st.text(max_size=400))
def test_no_text_raises(text: str) -> None:
    STORE.named(text)


@pytest.mark.parametrize("place", range(4))
def test_numbers_beyond_what_a_store_can_hold_are_no_tokens(place: int) -> None:
    tokens = Tokens("a store")
    numbers = ["1"] * 4
    for text, is_one in (("7" + "f" * 15, True), ("8" + "0" * 15, False)):
        numbers[place] = text
        body = ".".join([*numbers, "job"])
        token = f"{crc32c(body.encode(), crc32c(b'a store')):08x}.{body}"
        assert (tokens.named(token) is not None) is is_one
