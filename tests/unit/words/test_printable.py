import json

import pytest

from kqs.words.printable import printable, printable_json

# C0, C1, separators, direction marks, zero width, byte-order mark, tags, private use, unassigned
UNSEEN = [
    "\x1b",
    "\x9b",
    "\u2028",
    "\u2029",
    "\u202e",
    "\u2066",
    "\u200b",
    "\u200d",
    "\ufeff",
    "\U000e0041",
    "\ue000",
    "\u0378",
    "\u034f",
    "\u1160",
    "\u2800",
    "\u3164",
]


@pytest.mark.parametrize("character", UNSEEN)
def test_what_is_not_seen_becomes_an_escape(character: str) -> None:
    assert printable(f"a{character}b") == f"a{ascii(character)[1:-1]}b"
    encoded = json.dumps(f"a{character}b", ensure_ascii=False)
    assert character not in printable_json(encoded)
    assert json.loads(printable_json(encoded)) == f"a{character}b"


@pytest.mark.parametrize("text", ["", "a b", "é", "日本　語", "no\u00a0break", "\U0001f600", "e\u0301", "☃\ufe0f"])
def test_what_is_seen_stays(text: str) -> None:
    assert printable(text) == text
    assert printable_json(text) == text


def test_surrogates_line_breaks_and_tabs_are_escaped_in_text() -> None:
    assert printable("a\n\t\ud800") == "a\\n\\t\\ud800"


def test_line_breaks_and_tabs_between_the_values_of_json_stay() -> None:
    assert printable_json('{\n\t"a": "\u202e"\r\n}') == '{\n\t"a": "\\u202e"\r\n}'
