"""A long array of jobs in pieces: what was checked once is decoded again without holding anybody up for all of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

#: up to the next bracket outside of strings; possessive, so that no input makes it look twice
_TO_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+([{}\[\]])', re.DOTALL)


def split_array(text: bytes, count: int) -> Iterator[bytes]:
    """Yield the JSON array of objects `text`, which must be valid, as arrays of `count` objects each, and of the rest.

    Each piece is found when it is asked for, in the time that its own length takes.
    """
    begin = text.index(b"[") + 1
    depth = found = 0
    for token in _TO_BRACKET.finditer(text, begin):
        depth += 1 if token[1] in b"{[" else -1
        if depth:
            continue
        found += 1
        if found == count:
            yield _array(text[begin : token.end()])
            begin, found = token.end(), 0
    if found:
        yield _array(text[begin : text.rindex(b"]")])


def _array(objects: bytes) -> bytes:
    return b"[%b]" % objects.lstrip(b", \t\r\n")
