"""The one sentence for a name that nobody knows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from difflib import get_close_matches

from kqs.words.printable import SHOWN_CHARS, printable, shortened

#: Of 1. Names that share two letters of three in their order are near: a slip, a plural, a synonym's beginning.
CUTOFF = 0.6


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown `name` of some `kind`, with the nearest of the `known` ones, if one is near."""
    message = f"unknown {kind} {_quoted(name)}"
    nearest = get_close_matches(name[:SHOWN_CHARS], list(known), n=1, cutoff=CUTOFF)
    return f"{message}; the nearest known one is {_quoted(nearest[0])}" if nearest else message


def _quoted(name: str) -> str:
    return printable(shortened(json.dumps(name, ensure_ascii=False)))
