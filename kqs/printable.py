"""Text of strangers, made fit for a terminal, a table or a log line."""

from __future__ import annotations

from unicodedata import category

#: characters of a stranger's own text in a message
SHOWN_CHARS = 60


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
        if character.isprintable() or category(character) == "Zs":
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


def printable(text: str) -> str:
    """Return `text` with everything that could break a line, steer a terminal or deceive its reader as a backslash escape."""
    return text if text.isprintable() else text.translate(_FOR_PEOPLE)


def shortened(text: str) -> str:
    """Return the beginning of `text`, with an ellipsis where more was cut off."""
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


def printable_json(text: str) -> str:
    """Return the same JSON with such characters as JSON escapes."""
    return text if text.isprintable() else text.translate(_IN_JSON)
