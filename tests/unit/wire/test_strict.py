import msgspec
import pytest
from msgspec import Raw

from kqs.errors import CallError
from kqs.wire import strict
from kqs.wire.steps import finish


@pytest.mark.parametrize(
    "text", [b'"a"', '"é\U0001f600"'.encode(), rb'"\\ud800"', rb'"\ud83d\ude00"', rb'"\uD83D\uDE00\n"', rb'"\u00e9"']
)
def test_unicode_text_is_clean(text: bytes) -> None:
    assert strict.is_clean_text(text)


@pytest.mark.parametrize(
    "text",
    [
        b'"\xff"',
        b'"\xc0\xaf"',
        b'"\xed\xa0\x80"',
        rb'"\ud800"',
        rb'"\uDC00"',
        rb'"\ud83dx\ude00"',
        rb'"\ude00\ud83d"',
        rb'"\\\ud800"',
    ],
)
def test_bytes_and_escapes_that_are_no_unicode_are_not_clean(text: bytes) -> None:
    assert not strict.is_clean_text(text)


def closed(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize("levels", [1, 63, 64])
def test_up_to_the_limit_is_not_deeper(levels: int) -> None:
    assert not strict.is_deeper(closed(levels), 64)


def test_one_level_more_is_deeper() -> None:
    assert strict.is_deeper(closed(65), 64)
    assert strict.is_deeper(b'{"a":' * 65 + b"1" + b"}" * 65, 64)


def test_brackets_in_strings_and_side_by_side_are_no_levels() -> None:
    assert not strict.is_deeper(b'["' + b"[" * 99 + b'\\"{"' + b",[]" * 99 + b"]", 64)


def test_brackets_in_strings_do_not_make_up_for_levels() -> None:
    assert strict.is_deeper(b'["]",' * 65 + b'"x"' + b',"["]' * 65, 64)


def test_one_deep_value_among_many_is_found_wherever_it_stands() -> None:
    group = strict._GROUP
    values = [Raw(b"1"), Raw(closed(64)), *[Raw(b'"' + b"x" * 9 + b'"')] * (2 * group)]
    assert not strict.is_any_deeper(values, 64)
    for at in (0, 1, group - 1, group, 2 * group, len(values)):
        assert strict.is_any_deeper([*values[:at], Raw(closed(65)), *values[at:]], 64)


def test_text_and_depth_are_refused_with_their_reason() -> None:
    strict.check_text(closed(64))
    with pytest.raises(CallError, match="levels"):
        strict.check_text(closed(65))
    with pytest.raises(CallError, match="UTF-8"):
        strict.check_text(b'"\xff"')


def refusal(text: bytes, error: ValueError | RecursionError) -> str:
    return str(finish(strict.refusing(text, error)))


def test_malformed_input_is_told_apart() -> None:
    assert "levels" in refusal(b"[", RecursionError())
    assert "UTF-8" in refusal(b'"\xff', ValueError("x"))


def test_the_reason_is_shown_whatever_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(text: bytes) -> None:
        raise msgspec.DecodeError("JSON is malformed: Oh")

    monkeypatch.setattr(strict, "_decode_raw", refuse)
    assert refusal(b"[", ValueError("no")) == "not JSON: oh, got ["


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"foo\n", "invalid character (byte 1), got foo"),
        (b'{"a":fo}', 'invalid character (byte 6), got {"a":fo}'),
        (b'{"a":1', 'input data was truncated, got {"a":1'),
        (b'"' + b"x" * 99, f'input data was truncated, got "{"x" * 59}…'),
        (rb'{"a":"\ud800"}', "invalid UTF-8, or half of a surrogate pair"),
    ],
)
def test_malformed_text_is_shown_with_what_is_wrong_and_where(text: bytes, reason: str) -> None:
    with pytest.raises(CallError) as caught:
        finish(strict.checking_json(text))
    assert str(caught.value) == f"not JSON: {reason}"


def test_a_key_is_unseen_only_outside_what_was_kept() -> None:
    once = {b'"id"': 1, b'"n"': 0}
    assert not strict.may_hold_unseen(b'{"id":1}', once, [Raw(b"1")])
    assert not strict.may_hold_unseen(b'{"id":{"id":1,"n":2}}', once, [Raw(b'{"id":1,"n":2}')])
    assert strict.may_hold_unseen(b'{"id":1,"id":2}', once, [Raw(b"2")])
    assert strict.may_hold_unseen(b'{"id":1,"n":2}', once)


@pytest.mark.parametrize("text", [rb'{"i\u0064":1}', rb'{"\u0074ype":1}'])
def test_an_escaped_letter_may_hide_a_key(text: bytes) -> None:
    assert strict.may_hold_unseen(text, {})
    assert not strict.may_hold_unseen(rb'{"type":"\u00e9\n"}', {})


def test_nothing_is_unseen_where_what_was_found_takes_all_bytes() -> None:
    text = rb'{"id":"\u0069\u0064 \"id\""}'
    assert strict.may_hold_unseen(text, {b'"id"': 1})
    assert not strict.may_hold_unseen(text, {b'"id"': 1}, fewest_bytes=len(text))
    assert strict.may_hold_unseen(text + b" ", {b'"id"': 1}, fewest_bytes=len(text))


def test_what_is_shown_is_cut_short() -> None:
    assert strict.shown(b'"abc"') == '"abc"'
    assert len(strict.shown(b'"' + b"x" * 1000)) == 61
    assert strict.shown(b"\xff") == "�"


def test_brackets_only_in_a_string_are_no_levels() -> None:
    assert not strict.is_deeper(b'"' + b"[" * 99 + b'"', 64)


@pytest.mark.parametrize("text", [b"[1", b"5x", b'"\xff"', b"[" * 65 + b"]" * 65, b""])
def test_all_that_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(CallError) as caught:
        finish(strict.checking_json(text))
    assert caught.value.call_code == "bad_json"


@pytest.mark.parametrize("text", ["x" * 60, "\U0001f600" * 60])
def test_what_is_shown_is_cut_after_whole_characters(text: str) -> None:
    assert strict.shown(text.encode()) == text
    assert strict.shown((text + text).encode()) == f"{text}…"


@pytest.mark.parametrize(
    ("text", "is_clean"),
    [
        ("é".encode() * 100_000, True),
        (b"x" + "é".encode() * 100_000, True),
        ("é".encode() * 100_000 + b"\xc3", False),
        (rb"\ud83d\ude00" * 100_000, True),
        (rb"\ud83d\ude00" * 100_000 + rb"\ud83d", False),
        (rb"\\ud83d" * 100_000, True),
        (rb"\ud7ff" * 10 + b"\\", True),
    ],
)
def test_long_text_is_judged_like_short(text: bytes, is_clean: bool) -> None:
    assert strict.is_clean_text(text) == is_clean


def test_long_json_may_be_as_deep_as_short() -> None:
    finish(strict.checking_json(b"[" + closed(63) + b',""' * 100_000 + b"]"))
    with pytest.raises(CallError, match="levels"):
        finish(strict.checking_json(b"[" + b'"",' * 100_000 + closed(64) + b"]"))


def test_what_steers_a_terminal_is_shown_as_an_escape() -> None:
    assert strict.shown('"a\u202eb"'.encode()) == '"a\\u202eb"'
