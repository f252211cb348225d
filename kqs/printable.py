"""Text of strangers, made fit for a terminal or a log line."""

from __future__ import annotations

import re

#: characters of a stranger's own text in a message
SHOWN_CHARS = 60

# C0, C1 and DEL move a terminal's cursor or break lines, U+2028/2029 break lines for some readers, surrogates are no UTF-8
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# raw line breaks and tabs stand only between JSON's values; in strings they are escaped already
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029]")


def printable(text: str) -> str:
    """Return `text` with everything that could break a line or steer a terminal as a backslash escape."""
    return _UNSAFE.sub(lambda match: ascii(match[0])[1:-1], text)


def shortened(text: str) -> str:
    """Return the beginning of `text`, with an ellipsis where more was cut off."""
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


def printable_json(text: str) -> str:
    """Return the same JSON with such characters as JSON escapes."""
    return _UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
