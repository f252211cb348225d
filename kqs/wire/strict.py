r"""What KQS asks of JSON beyond what msgspec checks.

msgspec checks the grammar of everything, but skips over what it keeps as `Raw`: invalid UTF-8 passes there, depth is only
bounded by the interpreter's recursion limit, and of a repeated key the last one wins in silence (kqs.wire.members). Numbers
are nobody's business here: they stay the bytes that were sent.

Each check begins with a cheap test that errs only on the side of suspicion; the exact scan runs on what it stops. No message of
msgspec's decides anything: its next release may word it otherwise.
"""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Raw

from kqs.errors import CallError
from kqs.wire.scan import BLOCK_BYTES, SHORT_BYTES, deepest
from kqs.wire.steps import Steps, finish
from kqs.words.printable import SHOWN_CHARS, printable, shortened

#: Levels of arrays and objects in one line, its own object included. It protects every later reader of the data from its
#: own recursion limit; CPython stops at 1,000, orjson at 1,024, PHP at 512.
MAX_DEPTH = 64

#: values whose brackets are counted together: few enough that common ones pass, enough that the count costs little
_GROUP = 12

# the order matters: a whole pair is eaten before its first half can look lonely; 1 MiB at most at a time
_SOUND = re.compile(rb"(?:[^\\]{1,4096}+|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u(?![dD][89a-fA-F]..)|\\[^u]){0,256}+", re.DOTALL)
_LONE_SURROGATE = re.compile(rb"\\u[dD]", re.DOTALL)

_LONGEST_WORD = b" " * len("\\ud83d\\ude00")  # that msgspec looks ahead for

_Utf8Decoder = getincrementaldecoder("utf-8")
_decode_raw = msgspec.json.Decoder(Raw).decode


def is_clean_text(text: bytes) -> bool:
    """Tell whether `text` is UTF-8 without escapes of lone surrogates."""
    if b"\\" in text or len(text) > SHORT_BYTES:
        return finish(_cleaning_text(text))
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _cleaning_text(text: bytes) -> Steps[bool]:
    if not text.isascii():
        decode = _Utf8Decoder().decode
        try:
            for start in range(0, len(text), BLOCK_BYTES):
                decode(text[start : start + BLOCK_BYTES])
                yield
            decode(b"", True)
        except UnicodeDecodeError:
            return False
    if b"\\" not in text:
        return True
    yield
    if not (b"\\ud" in text or b"\\uD" in text):
        return True
    yield
    at = 0
    while at < len(text):
        sound = _SOUND.match(text, at)
        assert sound is not None, "it matches nothing, too"
        if sound.end() == at:
            return not _LONE_SURROGATE.match(text, at)  # else it is a backslash that ends a text that is no JSON
        at = sound.end()
        yield
    return True


def may_hold_unseen(text: bytes, keys: Mapping[bytes, int], kept: Sequence[Raw] = (), fewest_bytes: int = -1) -> bool:
    r"""Tell whether one of our keys may stand in `text` more often than a decoder found it. Every fast way rests on this lemma.

    A decoder is silent on a key that stands again: the last one wins. But what it found says how many bytes and how many
    quoted keys there are at least; if there are no more, nothing is unseen, and no token need be looked at.

    Args:   text: JSON, or lines of it, whose grammar a decoder accepted.
            keys: each key of ours in its quotes, of letters a to z only -> how often it was found, a repeated one once.
            kept: the values that were passed over and kept as they stand, none within another; or a default without a quote.
            fewest_bytes: what all that was found takes in its shortest spelling, each part once, `kept` as it stands; -1:
            nobody has added that up.
    Returns: False: outside of `kept`, each key stands just as often as `keys` says. True: in doubt.

    Proof. First, let `text` have `fewest_bytes`. Each part that was found stands in bytes of its own, at least as many as
    were added up for it; so they take up all of `text`, and no byte is left for another member, whatever its spelling.

    Else, call each place of the bytes `"key"` a match; two of them overlap at most in a quote.
    1. Every member that has the key is a match, and begins with it. JSON spells a letter as itself or as \u0061 … \u007a,
       and neither `\u006` nor `\u007` is in `text`.
    2. `count` counts all these. It goes from left to right, and misses only what begins within a match that it counted: on
       that one's last quote. Before this is a letter; but before a member is a brace, a comma or a space.
    3. A match lies in a kept value, or beside all of them. Around a value are colons, commas, brackets, braces, spaces or
       newlines, and a match has none of these. So `count` counts in a kept value what it counts there in `text`.
    4. So what is counted in `text` less what is counted in `kept` is at least the number of members that have the key
       outside of `kept`, which is at least what `keys` says. If both ends are equal, so is what stands between them.
       And so it is if all of `text` has no more matches than that.
    Matches that are no keys, such as a text that reads like one, only add to the count, and so to the doubt.
    """
    if len(text) == fewest_bytes:
        return False
    if b"\\" in text and (b"\\u006" in text or b"\\u007" in text):
        return True
    rest = None
    for key, expected in keys.items():
        found = text.count(key)
        if found != expected:
            rest = b"\n".join(kept) if rest is None else rest
            if found - rest.count(key) != expected:
                return True
    return False


def is_deeper(text: bytes, limit: int) -> bool:
    """Tell whether the JSON in `text` nests deeper than `limit` levels."""
    return text.count(b"[") + text.count(b"{") > limit and finish(deepest(text)) > limit


def is_any_deeper(values: Sequence[Raw], limit: int) -> bool:
    """Tell whether one of the JSON `values` nests deeper than `limit` levels."""
    all_of_them = b"".join(values)
    if b"[" not in all_of_them and b"{" not in all_of_them:  # to count them takes ten times as long
        return False
    for start in range(0, len(values), _GROUP):
        group = values[start : start + _GROUP]
        together = b"".join(group)
        if together.count(b"[") + together.count(b"{") > limit and any(is_deeper(bytes(value), limit) for value in group):
            return True
    return False


def check_text(text: bytes) -> None:
    """Refuse what checking_text refuses."""
    finish(checking_text(text))


def checking_text(text: bytes) -> Steps[None]:
    """Refuse, in steps, what msgspec does not, in JSON that it accepted.

    Raises: CallError: bad_json; not UTF-8, a lone surrogate, or more than MAX_DEPTH levels.
    """
    if not (yield from _cleaning_text(text)):
        raise bad_text()
    if len(text) <= SHORT_BYTES and text.count(b"[") + text.count(b"{") <= MAX_DEPTH:
        return
    yield
    if (yield from deepest(text)) > MAX_DEPTH:
        raise too_deep()


def checking_json(text: bytes) -> Steps[None]:
    """Refuse, in steps, what is no JSON, whatever it was meant to be.

    Raises: CallError: bad_json.
    """
    try:
        _decode_raw(text)
    except (ValueError, RecursionError) as error:
        raise (yield from refusing(text, error)) from None
    yield
    yield from checking_text(text)


def bad_text() -> CallError:
    """Return the error for text that is no Unicode."""
    return CallError("not JSON: invalid UTF-8, or half of a surrogate pair", "bad_json")


def too_deep() -> CallError:
    """Return the error for too many levels."""
    return CallError(f"more than {MAX_DEPTH} levels of arrays and objects", "bad_json")


def refusing(text: bytes, error: ValueError | RecursionError) -> Steps[CallError]:
    """Return, in steps, the error a peer gets when a msgspec decoder raised `error` over malformed `text`."""
    if isinstance(error, RecursionError):
        return too_deep()
    yield
    if not (yield from _cleaning_text(text)):
        return bad_text()
    yield
    return CallError(f"not JSON: {_why_malformed(text, error)}, got {shown(text.lstrip())}", "bad_json")


def _why_malformed(text: bytes, error: ValueError) -> str:
    """Return the decoder's reason, whatever its words.

    Of a wrong word with too few bytes after it, it says that it was cut short: `foo` might have become `false`.
    """
    reason = str(error)
    try:
        _decode_raw(text + _LONGEST_WORD)
    except ValueError as told_apart:
        reason = str(told_apart)
    reason = reason.removeprefix("JSON is malformed: ")
    return reason[:1].lower() + reason[1:]


def shown(value: bytes | Raw) -> str:
    """Return JSON as text for a message, cut short and fit for a terminal."""
    begin = value[: 4 * (SHOWN_CHARS + 1)] if isinstance(value, bytes) else bytes(memoryview(value)[: 4 * (SHOWN_CHARS + 1)])
    return printable(shortened(begin.strip().decode(errors="replace")))  # a character has at most 4 bytes
