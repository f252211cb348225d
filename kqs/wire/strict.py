r"""What KQS asks of JSON beyond what msgspec checks, and where the members of an object stand in its bytes.

msgspec checks the grammar of everything, but skips over what it keeps as `Raw`: invalid UTF-8 passes there, depth is only
bounded by the interpreter's recursion limit, and of a repeated key the last one wins in silence. Numbers are nobody's
business here: they stay the bytes that were sent.

Each check begins with a cheap test that errs only on the side of suspicion; the exact scan runs on what it stops.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import msgspec
from msgspec import Raw

from kqs.errors import CallError
from kqs.printable import SHOWN_CHARS, shortened

#: Levels of arrays and objects in one line, its own object included. It protects every later reader of the data from its
#: own recursion limit; CPython stops at 1,000, orjson at 1,024, PHP at 512.
MAX_DEPTH = 64

#: values whose brackets are counted together: few enough that common ones pass, enough that the count costs little
_GROUP = 12

# the order matters: a whole pair is eaten before its first half can look lonely
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)", re.DOTALL)
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{},:]', re.DOTALL)
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # as signed bytes: one level down, one level up
_NO_STEP = bytes(set(range(256)) - set(b'[{]}"'))

_QUOTE, _COLON, _COMMA = b'":,'

_TRUNCATED = "Input data was truncated"
_LONGEST_WORD = b" " * len("\\ud83d\\ude00")  # that msgspec looks ahead for

_decode_text = msgspec.json.Decoder(str).decode
_decode_raw = msgspec.json.Decoder(Raw).decode


def is_clean_text(text: bytes) -> bool:
    """Tell whether `text` is UTF-8 without escapes of lone surrogates."""
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            return False
    return b"\\" not in text or not _has_lone_surrogate(text)


def _has_lone_surrogate(text: bytes) -> bool:
    if b"\\ud" not in text and b"\\uD" not in text:
        return False
    return any(match[1] for match in _ESCAPE.finditer(text))


def may_hide_key(text: bytes) -> bool:
    r"""Tell whether `text` may spell an ASCII letter as an escape (\u0061 … \u007a), and so hide a key from a byte search."""
    return b"\\" in text and (b"\\u006" in text or b"\\u007" in text)


def is_deeper(text: bytes, limit: int) -> bool:
    """Tell whether the JSON in `text` nests deeper than `limit` levels."""
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")  # in this order, every quote left opens or closes a string
    outside_strings = text.translate(_STEPS, _NO_STEP).split(b'"')[::2]
    return max(accumulate(memoryview(b"".join(outside_strings)).cast("b")), default=0) > limit


def is_any_deeper(values: Sequence[Raw], limit: int) -> bool:
    """Tell whether one of the JSON `values` nests deeper than `limit` levels."""
    for start in range(0, len(values), _GROUP):
        group = values[start : start + _GROUP]
        together = b"".join(group)
        if together.count(b"[") + together.count(b"{") > limit and any(is_deeper(bytes(value), limit) for value in group):
            return True
    return False


def check_text(text: bytes) -> None:
    """Refuse what msgspec does not, in JSON that it accepted.

    Raises: CallError: bad_json; not UTF-8, a lone surrogate, or more than MAX_DEPTH levels.
    """
    if not is_clean_text(text):
        raise bad_text()
    if is_deeper(text, MAX_DEPTH):
        raise too_deep()


def check_json(text: bytes) -> None:
    """Refuse what is no JSON, whatever it was meant to be.

    Raises: CallError: bad_json.
    """
    try:
        _decode_raw(text)
    except (ValueError, RecursionError) as error:
        raise not_json(text, error) from None
    check_text(text)


def bad_text() -> CallError:
    """Return the error for text that is no Unicode."""
    return CallError("not JSON: invalid UTF-8, or half of a surrogate pair", "bad_json")


def too_deep() -> CallError:
    """Return the error for too many levels."""
    return CallError(f"more than {MAX_DEPTH} levels of arrays and objects", "bad_json")


def not_json(text: bytes, error: ValueError | RecursionError) -> CallError:
    """Return the error a peer gets when a msgspec decoder raised `error` over malformed `text`."""
    if isinstance(error, RecursionError):
        return too_deep()
    if not is_clean_text(text):
        return bad_text()
    reason = _why_malformed(text, error)
    return CallError(f"not JSON: {reason}, got {shown(text.strip())}", "bad_json")


def _why_malformed(text: bytes, error: ValueError) -> str:
    reason = str(error)
    if reason == _TRUNCATED:
        # msgspec also says so of a wrong word with too few bytes after it: `foo` might have become `false`
        try:
            _decode_raw(text + _LONGEST_WORD)
        except ValueError as told_apart:
            reason = str(told_apart)
    return "it ends within a value" if reason == _TRUNCATED else reason.removeprefix("JSON is malformed: ")


class Member(NamedTuple):
    """One key and its value: `text[start:end]`, in object number `owner` of those at its level, from 0."""

    owner: int
    key: str
    start: int
    end: int


def members(text: bytes, level: int = 1) -> Iterator[Member]:
    """Yield the members of all objects at nesting `level` of valid JSON (1: it is the outermost), as they stand.

    A loop over every token: for the rare line that is suspect.
    """
    depth, owner = 0, -1
    last = key = None
    for token in _TOKEN.finditer(text):
        mark = text[token.start()]
        if mark == _QUOTE:
            last = token
        elif mark in b"[{":
            depth += 1
            owner += depth == level
        elif depth != level:
            depth -= mark in b"]}"
        elif mark == _COLON:
            key = last
        else:
            if key is not None:
                yield Member(owner, _decode_text(key[0]), key.start(), token.start())
                key = None
            depth -= mark != _COMMA


def is_repeated(key: bytes, text: bytes, kept: bytes, expected: int) -> bool:
    """Tell whether `key` (with its quotes) may stand more than `expected` times in `text`, outside the raw values `kept`.

    Sound as long as `text` hides no key: each real key is one occurrence, so none is left for a second one.
    """
    found = text.count(key)
    return found != expected and found - kept.count(key) != expected


def shown(value: bytes | Raw) -> str:
    """Return JSON as text for a message, cut short."""
    return shortened(bytes(value)[: 4 * (SHOWN_CHARS + 1)].decode(errors="replace"))  # a character has at most 4 bytes
