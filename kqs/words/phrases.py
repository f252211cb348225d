"""Words for people: how many of what, and what a value may be, from its JSON schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_BOUNDS = {
    "minimum": ">= {}",
    "exclusiveMinimum": "> {}",
    "maximum": "<= {}",
    "minLength": "at least {} long",
    "maxLength": "at most {} long",
    "minItems": "at least {} long",
    "maxItems": "at most {} long",
}
_WORDS = {
    "integer": "an integer",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list of text",
    "object": "an object",
    "null": "null",
}


def counted(count: int, what: str) -> str:
    """Return so many of `what`, a word that takes an s."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def in_words(schema: Mapping[str, Any]) -> str:
    """Return what fits `schema`: its type and range, or what its own key `expected` says.

    A key `unit` names what a number counts; null among several choices is not told.
    """
    if "expected" in schema:
        return str(schema["expected"])
    if "anyOf" in schema:
        return " or ".join(in_words(one) for one in schema["anyOf"] if one != {"type": "null"})
    if "enum" in schema or "const" in schema:
        return " or ".join(json.dumps(word) for word in schema.get("enum", [schema.get("const")]) if word is not None)
    unit = f" of {schema['unit']}" if "unit" in schema else ""
    return _WORDS.get(schema.get("type", ""), "any JSON value") + unit + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    if "minimum" in schema and "maximum" in schema:
        return f" from {_whole(schema['minimum'])} to {_whole(schema['maximum'])}"
    bounds = " and ".join(text.format(_whole(schema[name])) for name, text in _BOUNDS.items() if name in schema)
    return f"{',' if bounds.startswith('at') else ''} {bounds}" if bounds else ""


def _whole(bound: float) -> float:
    """Return a bound without `.0`, which some versions of the libraries write and others do not."""
    return int(bound) if bound == int(bound) else bound
