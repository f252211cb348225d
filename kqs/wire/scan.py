"""How deep JSON is nested, and where its values end, found block by block.

For JSON whose grammar was checked before. Nothing here costs more than a few ms between two yields, however long the text is
and whatever it is made of; so no loop here is over all tokens of a text, and no pattern has an unbounded repetition of one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate

from kqs.wire.steps import Steps

BLOCK_BYTES = 64 * 1024
#: a text up to here is done in one step
SHORT_BYTES = 2 * BLOCK_BYTES

_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # as signed bytes: one level down, one level up
_NO_STEP = bytes(set(range(256)) - set(b'[{]}"'))

# a string that the block cuts off is a token too, or what stands in it would look like tokens
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)|[\[\]{},]', re.DOTALL)
_REST_OF_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+(?:"|\Z)', re.DOTALL)
_SOME_OF_STRING = re.compile(rb'(?:[^"\\]{1,256}+|\\.){0,4096}+', re.DOTALL)
_SCALAR = re.compile(rb"[^\s,\]}]++")

_QUOTE = b'"'[0]
_OPENING = frozenset(b"[{")
_CLOSING = frozenset(b"]}")
_COMMA = b","[0]


class Scan:
    """Stands between two blocks of `text`, and knows how deep that is."""

    __slots__ = ("at", "depth", "in_string", "text")

    def __init__(self, text: bytes, at: int = 0) -> None:
        """Args: at: where it begins, outside strings; levels are counted from there."""
        self.text = text
        self.at = at
        self.depth = 0
        self.in_string = False

    @property
    def is_over(self) -> bool:
        """Tell whether the text ends here."""
        return self.at >= len(self.text)

    @property
    def end(self) -> int:
        """Return where the next block ends; never between the two characters of an escape."""
        end = self.at + BLOCK_BYTES
        if end >= len(self.text):
            return len(self.text)
        if self.text[end - 1] == b"\\"[0]:
            block = self.text[self.at : end]
            end -= (len(block) - len(block.rstrip(b"\\"))) % 2
        return end

    def copy(self) -> Scan:
        """Return another that stands here."""
        other = Scan(self.text, self.at)
        other.depth, other.in_string = self.depth, self.in_string
        return other

    def advance(self) -> list[int]:
        """Pass a block; return the depth before it and after each of its brackets."""
        end = self.end
        block = self.text[self.at : end]
        self.at = end
        if b"\\" in block:
            block = block.replace(b"\\\\", b"").replace(b'\\"', b"")  # in this order, every quote left opens or closes a string
        pieces = block.translate(_STEPS, _NO_STEP).split(b'"')
        outside = b"".join(pieces[self.in_string :: 2])
        self.in_string ^= len(pieces) % 2 == 0
        depths = list(accumulate(memoryview(outside).cast("b"), initial=self.depth))
        self.depth = depths[-1]
        return depths

    def tokens(self) -> Iterator[tuple[int, int, int]]:
        """Yield the brackets and commas of the next block: where each stands, which it is, and the depth after it."""
        at, end, depth = self.at, self.end, self.depth
        if self.in_string:
            rest = _REST_OF_STRING.match(self.text, at, end)
            assert rest is not None, "it matches nothing, too"
            at = rest.end()
        for token in _TOKEN.finditer(self.text, at, end):
            mark = self.text[token.start()]
            if mark != _QUOTE:
                depth += (mark in _OPENING) - (mark in _CLOSING)
                yield token.start(), mark, depth


def deepest(text: bytes) -> Steps[int]:
    """Return, in steps, how many levels the JSON in `text` nests."""
    scan, most = Scan(text), 0
    while not scan.is_over:
        most = max(most, *scan.advance())
        yield
    return most


def end_of_value(text: bytes, at: int) -> Steps[int]:
    """Return, in steps, where the value ends that begins at `at`."""
    if text[at] == _QUOTE:
        at += 1
        while text[at] != _QUOTE:
            some = _SOME_OF_STRING.match(text, at)
            assert some is not None, "it matches nothing, too"
            at = some.end()
            yield
        return at + 1
    if text[at] not in _OPENING:
        scalar = _SCALAR.match(text, at)
        assert scalar is not None, "a value has a first character"
        return scalar.end()
    scan = Scan(text, at)
    while True:
        here = scan.copy()
        if min(scan.advance()[1:], default=1) <= 0:
            return next(at + 1 for at, mark, depth in here.tokens() if not depth and mark in _CLOSING)
        yield


def runs(text: bytes) -> Iterator[tuple[int, bytes] | None]:
    """Cut a long array or object into runs of whole elements or members, of about a block each, or as long as one is.

    Yields: a run, which is an array or object again, and what to add to a place in it for the place in `text`; None after mere
    steps.
    """
    if len(text) <= SHORT_BYTES:
        yield 0, text
        return
    first = len(text) - len(text.lstrip())
    opening = text[first : first + 1]
    closing = b"]" if opening == b"[" else b"}"
    start = first + 1
    scan = Scan(text)
    scan.advance()
    while not scan.is_over:
        here = scan.copy()
        cut = None
        if min(scan.advance()) <= 1:
            cut = next((at for at, mark, depth in here.tokens() if depth == 1 and mark == _COMMA), None)
        if cut is None:
            yield None
        else:
            yield start - 1, b"%b%b%b" % (opening, text[start:cut], closing)
            start = cut + 1
    yield start - 1, b"%b%b%b" % (opening, text[start : text.rindex(closing)], closing)
