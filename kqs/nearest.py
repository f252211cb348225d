"""The one sentence for a name that nobody knows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from difflib import get_close_matches

from kqs.printable import SHOWN_CHARS, shortened


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown `name` of some `kind`, with the nearest known one, if any is known."""
    message = f"unknown {kind} {_quoted(name)}"
    nearest = get_close_matches(name[:SHOWN_CHARS], list(known), n=1, cutoff=0.0)
    return f"{message}; the nearest known one is {_quoted(nearest[0])}" if nearest else message


def _quoted(name: str) -> str:
    return shortened(json.dumps(name, ensure_ascii=False))
