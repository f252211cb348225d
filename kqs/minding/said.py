"""Which JSON a command may say of its progress, as the server reads it. Pure.

The server has the last word (kqs.made.progress). What it would refuse must not take the place of what it keeps, and its own
rule needs more than the standard library.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

from kqs.minding.frames import PROGRESS_BYTES

#: the deepest arrays and objects that are kept; kqs.made.values has the same bound, which cannot be imported from here
LEVELS = 60

_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"')


def _refuse(word: str) -> NoReturn:
    raise ValueError(word)  # NaN and Infinity


# every pair, for of a key that stands twice a dict has one value; numbers as they stand: they may be longer than int takes
_decode = json.JSONDecoder(object_pairs_hook=list, parse_float=str, parse_int=str, parse_constant=_refuse).decode
_encode = json.JSONEncoder(ensure_ascii=False).encode


def may_be_kept(text: bytes) -> bool:
    """Tell whether this is JSON that is short and flat enough, in sound Unicode."""
    if len(text) > PROGRESS_BYTES:
        return False
    try:
        value = _decode(text.decode())
        if b"\\u" in text:
            _encode(value).encode()  # half of a surrogate pair cannot be
    except (ValueError, RecursionError):
        return False
    return text.count(b"[") + text.count(b"{") <= LEVELS or _levels(text) <= LEVELS


def _levels(text: bytes) -> int:
    most = level = 0
    for byte in _TEXT.sub(b"", text):
        level += (byte in b"[{") - (byte in b"]}")
        most = max(most, level)
    return most
