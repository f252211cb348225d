"""Text of strangers, made fit for a terminal, a table or a log line."""

from __future__ import annotations

import re
from unicodedata import category

#: characters of a stranger's own text in a message
SHOWN_CHARS = 60

#: What Unicode has nobody see (Default_Ignorable_Code_Point), and a blank pattern of Braille, though Python calls it printable.
_BLANK = re.compile(r"[\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0]")
_SELECTORS = re.compile(r"[\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")


class _Escapes(dict[int, str]):
    """What `str.translate` puts for each character, found out when it is first met.

    Escaped is whatever is not seen where it stands, or changes how the rest is seen: controls (C0, C1), formats (direction
    marks, zero width, byte-order mark, tags), line and paragraph separators, surrogates, private use, and what this Python's
    Unicode does not know. Marks that join letters or pictures are seen in what they make, but not when they stand elsewhere.
    """

    def __init__(self, escape: str, kept: str = "") -> None:
        super().__init__({ord(character): character for character in kept})
        self._escape = escape

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if category(character) == "Zs" or (character.isprintable() and not _BLANK.match(character)):
            escaped = character
        elif self._escape == "json":
            units = character.encode("utf-16-be", "surrogatepass").hex()
            escaped = "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
        else:
            escaped = ascii(character)[1:-1]
        self[code] = escaped
        return escaped


_FOR_PEOPLE = _Escapes("python")
# raw line breaks and tabs stand only between JSON's values; in strings they are escaped already
_IN_JSON = _Escapes("json", kept="\n\r\t")


def is_all_seen(text: str) -> bool:
    """Tell whether `text` has nothing in it that is not seen, so that no two such texts look the same for what they hide."""
    return text.isprintable() and (text.isascii() or not (_BLANK.search(text) or _SELECTORS.search(text)))


def printable(text: str) -> str:
    """Return `text` with everything that could break a line, steer a terminal or deceive its reader as a backslash escape."""
    return text if _is_plain(text) else text.translate(_FOR_PEOPLE)


def shortened(text: str) -> str:
    """Return the beginning of `text`, with an ellipsis where more was cut off."""
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


def printable_json(text: str) -> str:
    """Return the same JSON with such characters as JSON escapes."""
    return text if _is_plain(text) else text.translate(_IN_JSON)


def _is_plain(text: str) -> bool:
    return text.isprintable() and (text.isascii() or not _BLANK.search(text))
