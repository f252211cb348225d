"""Which jobs somebody means: the one filter of all calls that name jobs by what they are."""

from __future__ import annotations

from typing import Any

import msgspec

from kqs.states import State

#: the longest pattern, in bytes
MAX_PATTERN_BYTES = 1000
#: what a compiled pattern may take, in bytes
_PATTERN_MEMORY_BYTES = 4 * 1024 * 1024
#: where its automaton does not fit that, each byte of a text may cost as many steps as its program has: a MiB, half a second
_MAX_PROGRAM_STEPS = 200


class PatternError(ValueError):
    """A pattern is none, or too costly; the message says what is wrong, and where."""


class Pattern:
    """A regular expression of RE2, which takes time in proportion to the text, searched in bytes of UTF-8."""

    __slots__ = ("_search", "text")

    def __init__(self, text: str) -> None:
        """Raises: PatternError."""
        import re2  # type: ignore[import-untyped]  # who never searches need not load it

        self.text = text
        encoded = text.encode(errors="replace")
        if len(encoded) > MAX_PATTERN_BYTES:
            raise PatternError(f"expected at most {MAX_PATTERN_BYTES} bytes, got {len(encoded)}")
        options = re2.Options()
        options.max_mem = _PATTERN_MEMORY_BYTES
        options.log_errors = False
        options.never_capture = True
        re2.purge()  # it would keep 128 of them
        try:
            compiled: Any = re2.compile(encoded, options)
        except re2.error as error:
            raise PatternError(_words_of(error)) from None
        if compiled.programsize > _MAX_PROGRAM_STEPS:
            raise PatternError(f"too costly: it takes {compiled.programsize} steps, expected at most {_MAX_PROGRAM_STEPS}")
        self._search = compiled.search

    def is_in(self, data: bytes) -> bool:
        """Tell whether the pattern is found anywhere in `data`."""
        return self._search(data) is not None


class Filter(msgspec.Struct, frozen=True):
    """All that is set must be so of a job; None means anything.

    ids: those jobs alone. states: as they are shown: a claimed job is PROCESSING. resource, group: the job's own.
    accepted_before: Unix seconds. match: found in the data, as its bytes were sent.
    """

    ids: tuple[str, ...] | None = None
    type: str | None = None
    states: frozenset[State] | None = None
    resource: str | None = None
    accepted_before: float | None = None
    match: Pattern | None = None
    group: str | None = None


def _words_of(error: Exception) -> str:
    words = error.args[0] if error.args else "no pattern"
    return words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
