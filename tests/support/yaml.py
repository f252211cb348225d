"""The little of YAML that our own files keep to, so that tests need no package for it.

Block mappings, whose values are mappings, quoted scalars (a list or mapping of JSON may stand unquoted), anchors and `<<`.
Anything else is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_LINE = re.compile(r'( *)([\w.-]+|<<): *(?:&(\w+))?(?:\*(\w+))?("[^"]*"|\'[^\']*\'|\[.*\]|\{.*\})?')


def parse(text: str) -> dict[str, Any]:
    """Return the document. Raises: ValueError: it uses more than we read."""
    root: dict[str, Any] = {}
    levels: list[tuple[int, dict[str, Any]]] = [(-1, root)]
    anchors: dict[str, dict[str, Any]] = {}
    for indent, key, anchor, alias, value in _lines(text):
        while levels[-1][0] >= indent:
            levels.pop()
        place = levels[-1][1]
        if key == "<<":
            place.update(anchors[alias])
        elif value:
            place[key] = value[1:-1] if value[0] == "'" else json.loads(value)
        else:
            place[key] = {}
            levels.append((indent, place[key]))
            if anchor:
                anchors[anchor] = place[key]
    return root


def _lines(text: str) -> Iterator[tuple[int, str, str, str, str]]:
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            found = _LINE.fullmatch(line)
            if found is None:
                raise ValueError(f"not read: {line}")
            indent, key, anchor, alias, value = found.groups(default="")
            yield len(indent), key, anchor, alias, value
