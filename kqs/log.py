"""Where log lines go and how they look: one line an event on stderr, for people or as JSON.

Whatever a peer put into an event (ids, types, payloads) can neither break a line nor reach a terminal as a control
sequence, and is cut to a length. Lines of other libraries, written through `logging`, look the same.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

from kqs.config.sections import LogSection
from kqs.printable import printable

#: longest value and longest message, in characters: a payload of 16 MiB is no log line
MAX_VALUE_CHARS = 200
MAX_EVENT_CHARS = 1000

_BARE = re.compile(r"[^\s\"=]+")
_FIRST = ("timestamp", "level", "logger", "event", "exception")


def configure(section: LogSection, stream: TextIO | None = None) -> None:
    """Send structlog and logging to `stream` (None: stderr) from `section.level` up. May be called again."""
    level = logging.getLevelNamesMapping()[section.level.upper()]
    target = stream or sys.stderr
    prepare: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    render: Processor = render_json if section.format == "json" else render_text
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *prepare, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda name="kqs": _Lines(target, name),
        cache_logger_on_first_use=False,
    )
    _adopt_logging(level, target, prepare, render)


def _adopt_logging(level: int, target: TextIO, prepare: list[Processor], render: Processor) -> None:
    handler = logging.StreamHandler(target)
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=prepare, processors=[remove_meta, render]))
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)


class _Lines:
    """What structlog calls with a finished line. A stream that is gone is no reason to stop a server."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self.name = name

    def msg(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()

    debug = info = warning = error = critical = msg


def render_json(_logger: object, _method: str, event: EventDict) -> str:
    """Return the event as one JSON object in ASCII."""
    cut = {key: _cut(value, MAX_EVENT_CHARS if key == "event" else MAX_VALUE_CHARS) for key, value in _ordered(event)}
    if "exception" in event:
        cut["exception"] = event["exception"]
    return json.dumps(cut, default=_text)


def render_text(_logger: object, _method: str, event: EventDict) -> str:
    """Return `TIME LEVEL LOGGER: MESSAGE key=value ...`, and a traceback on indented lines below."""
    pairs = "".join(f" {printable(str(key))}={_value(value)}" for key, value in event.items() if key not in _FIRST)
    message = printable(str(_cut(event.get("event", ""), MAX_EVENT_CHARS)))
    line = f"{event['timestamp']} {event['level']:7} {event['logger']}: {message}{pairs}"
    trace = event.get("exception", "")
    return "\n    ".join([line, *map(printable, trace.splitlines())])


def _ordered(event: Mapping[str, Any]) -> list[tuple[str, Any]]:
    first = [(key, event[key]) for key in _FIRST if key in event]
    return first + [(key, value) for key, value in event.items() if key not in _FIRST]


def _value(value: object) -> str:
    text = printable(_cut(value if isinstance(value, str) else _text(value), MAX_VALUE_CHARS))
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _text(value: object) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _cut(value: Any, most: int) -> Any:
    """Return `value`, or its first `most` characters; only plain numbers and the like stay what they are."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = _text(value)
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"
