from typing import Any

import pytest

from kqs.words.phrases import counted, in_words


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 5}, "an integer from 1 to 5"),
        ({"type": "number", "minimum": -1.0, "maximum": 0.5}, "a number from -1 to 0.5"),
        ({"type": "number", "unit": "seconds", "exclusiveMinimum": 0, "maximum": 5}, "a number of seconds > 0 and <= 5"),
        ({"type": "string", "minLength": 1, "maxLength": 9}, "text, at least 1 long and at most 9 long"),
        ({"type": "array", "minItems": 1, "maxItems": 9}, "a list of text, at least 1 long and at most 9 long"),
        ({"type": "boolean"}, "true or false"),
        ({"enum": ["a", None, 1]}, '"a" or 1'),
        ({"const": "a"}, '"a"'),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}, {"type": "string"}]}, "an integer or text"),
        ({"type": "number", "expected": "a prime"}, "a prime"),
        ({}, "any JSON value"),
        ({"type": "null"}, "null"),
    ],
)
def test_a_schema_is_put_in_words(schema: dict[str, Any], words: str) -> None:
    assert in_words(schema) == words


def test_one_of_anything_has_no_s() -> None:
    assert [counted(n, "job") for n in (0, 1, 2)] == ["0 jobs", "1 job", "2 jobs"]
