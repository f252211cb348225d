"""The members of JSON objects: their last values by name, and where they stand in the bytes.

For JSON whose grammar was checked before.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Generator, Mapping
from typing import NamedTuple

import msgspec
from msgspec import Raw

from kqs.errors import CallError
from kqs.wire.scan import SHORT_BYTES, end_of_value, runs
from kqs.wire.steps import Steps
from kqs.words.nearest import unknown_name
from kqs.words.printable import printable, shortened

_ABSENT = Raw()

#: bytes of a key that are read: no key of ours has more, even if each character is written as an escape
_KEY_BYTES = 120
#: between two steps
_MEMBERS_A_STEP = 500

_SPACE = rb"[ \t\r\n]*+"
_BEGIN = re.compile(_SPACE + rb"\{" + _SPACE)
_KEY = re.compile(rb'"((?:[^"\\]|\\u....|\\.){0,%d}+)"' % _KEY_BYTES + _SPACE + b":" + _SPACE, re.DOTALL)
_LONG_KEY = re.compile(rb'"((?:[^"\\]|\\u[^dD]...|\\[^u]){0,%d}+)' % _KEY_BYTES, re.DOTALL)
_COLON = re.compile(_SPACE + b":" + _SPACE)
_SPACES = re.compile(_SPACE)
_COMMA = re.compile(b"," + _SPACE)
_BRACE = b"}"[0]
_SPACE_BYTES = frozenset(b" \t\r\n")
_ENDS = _SPACE_BYTES | frozenset(b",}")

_decode_text = msgspec.json.Decoder(str).decode


class Reader:
    """Reads the values of a few known keys, in one pass of native code that keeps nothing of the others."""

    def __init__(self, *keys: str) -> None:
        fields = [(key, Raw, _ABSENT) for key in keys]
        self.keys = keys
        self.quoted = {key: b'"%b"' % key.encode() for key in keys}
        self._decode = msgspec.json.Decoder(msgspec.defstruct("Members", fields, gc=False)).decode

    def read(self, text: bytes | Raw) -> dict[str, Raw]:
        """Return the values of the object in `text`, of a repeated key the last.

        Raises: ValueError, RecursionError: as msgspec's decoders; msgspec.ValidationError: it is no object.
        """
        found = self._decode(text)
        return {key: value for key in self.keys if (value := getattr(found, key)) is not _ABSENT}


_NO_VALUES = Reader()


class Member(NamedTuple):
    """One key, cut short if it is very long, and its value. `end`: of the comma or brace behind, so spaces count in."""

    key: str
    start: int
    value_start: int
    end: int

    def moved(self, by: int) -> Member:
        """Return the same member in a text that has `by` more bytes before it."""
        return Member(self.key, self.start + by, self.value_start + by, self.end + by)


def check_keys(text: bytes, *, is_deep: bool) -> None:
    """Refuse JSON, which is short, with a key that stands twice in its object: a decoder would take the last in silence.

    Args: is_deep: look at objects within objects, too. Raises: CallError: `bad_call`, with the key.
    """
    if text.count(b":") < 2:
        return
    repeated: list[str | None] = []  # of each object, the outermost last

    def look(members: list[tuple[str, object]]) -> None:
        counts = Counter(name for name, _ in members)
        repeated.append(None if len(counts) == len(members) else counts.most_common(1)[0][0])

    # numbers are nobody's business here, and as integers they have a most of digits
    json.loads(text, object_pairs_hook=look, parse_int=float)
    for name in repeated if is_deep else repeated[-1:]:
        if name is not None:
            raise _stands_twice(name)


def checking_keys(text: bytes, reader: Reader) -> Steps[None]:
    """Refuse, in steps, an object however long that has a key twice, or one that `reader` does not look for.

    Raises: CallError: `bad_call`, with the key.
    """
    if len(text) <= SHORT_BYTES and b"\\u00" not in text and all(text.count(key) < 2 for key in reader.quoted.values()):
        return  # none of them is repeated, however it is spelt; the decoder tells of others
    for member in walking_known(text, reader.keys):
        if member is None:
            yield


def walking_known(text: bytes, known: Collection[str]) -> Generator[Member | None, None, None]:
    """Yield as `walking` does.

    Raises: CallError: `bad_call`, at the first key that is none of the `known` ones, or stands twice.
    """
    seen: set[str] = set()
    for member in walking(text, _NO_VALUES, {}):
        if member is not None:
            if member.key not in known:
                raise CallError(unknown_name("field", member.key, known))
            if member.key in seen:
                raise _stands_twice(member.key)
            seen.add(member.key)
        yield member


def _stands_twice(name: str) -> CallError:
    return CallError(f"{printable(shortened(name))}: stands twice")


def walking(text: bytes, reader: Reader, found: dict[str, Raw]) -> Generator[Member | None, None, None]:
    """Yield the members of the object in `text`, as they stand; None after each few steps.

    Args: found: takes in what `reader` reads, of a repeated key the last value: of all members yielded, and of some later ones.
    Raises: as Reader.read.
    """
    for run in runs(text):
        if run is None:
            yield None
        else:
            offset, part = run
            values = reader.read(part)
            found.update(values)
            if len(part) > SHORT_BYTES:
                yield None
            for member in _members(part, values):
                yield member.moved(offset) if member is not None and offset else member


def _members(text: bytes, found: Mapping[str, Raw]) -> Generator[Member | None, None, None]:
    """Walk one run. A value that stands in `found` and where it is looked for is passed at once, however long it is."""
    at = _end(_BEGIN, text, 0)
    count = 0
    while text[at] != _BRACE:
        start = at
        key = _KEY.match(text, at)
        if key is not None:
            at = key.end()
            name = key[1].decode() if b"\\" not in key[1] else _decode_text(b'"%b"' % key[1])
        else:
            head = _LONG_KEY.match(text, at)
            assert head is not None, "it matches the beginning of any key"
            name = _decode_text(b'"%b"' % head[1].decode(errors="ignore").encode())
            at = _end(_COLON, text, (yield from end_of_value(text, at)))
        value_start = at
        known = found.get(name)
        if known is not None and text.startswith(bytes(known), at) and text[at + len(known)] in _ENDS:
            at += len(known)
        else:
            at = yield from end_of_value(text, at)
        if text[at] in _SPACE_BYTES:
            at = _end(_SPACES, text, at)
        yield Member(name, start, value_start, at)
        if text[at] == _BRACE:
            return
        at = _end(_COMMA, text, at)
        count += 1
        if count % _MEMBERS_A_STEP == 0:
            yield None


def _end(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    match = pattern.match(text, at)
    assert match is not None, "the grammar was checked"
    return match.end()
