"""Where log lines go and how they look: one line an event on stderr, for people or as JSON.

Whatever a peer put into an event (ids, types, payloads) can neither break a line nor reach a terminal as a control
sequence, and is cut to a length. Nobody waits for whoever reads them (see `logwriter`).

Our lines are ours: `get_logger` reads no configuration that others may change. Users' lines, written through `logging` or
structlog, look the same, until their code configures either: then that does what it does in any program.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
from collections.abc import Mapping
from functools import partial, wraps
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

from kqs.config.sections import LogSection
from kqs.logwriter import LineWriter
from kqs.made.traces import trace_of
from kqs.words.printable import printable

#: longest value and longest message, in characters: a payload of 16 MiB is no log line
MAX_VALUE_CHARS = 200
MAX_EVENT_CHARS = 1000
#: the last words of a process wait so long for whoever reads them, in s
LAST_WORDS_S = 0.5

_LEVELS = {name.lower(): number for name, number in logging.getLevelNamesMapping().items()} | {"exception": logging.ERROR}
_STAMP = structlog.processors.TimeStamper(fmt="iso", utc=True)
_PREPARE: list[Processor] = [
    structlog.stdlib.add_logger_name,
    structlog.processors.add_log_level,
    _STAMP,
    structlog.processors.ExceptionRenderer(lambda info: "" if info[1] is None else trace_of(info[1])),
]
_BARE = re.compile(r"[^\s\"=]+")
_FIRST = ("timestamp", "level", "logger", "event", "exception")


#: what a line of ours goes through. One list for ever, changed in place, since every logger holds it.
PROCESSORS: list[Processor] = []


class _Settings:
    """What `configure` was last given. level: as logging numbers it. write: takes a finished line."""

    level = logging.WARNING
    writer: LineWriter | None = None
    stream: TextIO | None = None

    def write(self, line: str) -> None:
        if self.writer is not None:
            self.writer.write(line)
            return
        stream = self.stream or sys.stderr
        with contextlib.suppress(OSError, ValueError):  # a stream that is gone is no reason to stop a server
            stream.write(line + "\n")
            stream.flush()


_settings = _Settings()


def get_logger(name: str) -> Any:
    """Return the logger of a part of KQS: a structlog logger, whatever users' code makes of structlog's own settings."""
    return structlog.wrap_logger(
        _Lines(name),
        processors=PROCESSORS,
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        context_class=dict,
        cache_logger_on_first_use=True,
    )


def configure(section: LogSection, stream: TextIO | None = None) -> None:
    """Write lines from `section.level` up to `stream` (None: stderr, without waiting for it). May be called again."""
    level = logging.getLevelNamesMapping()[section.level.upper()]
    render: Processor = render_json if section.format == "json" else render_text
    _settings.level, _settings.stream = level, stream
    _settings.writer = LineWriter(sys.stderr.fileno(), partial(_dropped, render)) if stream is None else None
    PROCESSORS[:] = [_admit, *_PREPARE, render]
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *_PREPARE, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda name="kqs": _Lines(name),
        cache_logger_on_first_use=False,
    )
    _adopt_logging(level, render)


def descriptor() -> int | None:
    """Return the descriptor that is ours alone, or None."""
    return None if _settings.writer is None else _settings.writer.descriptor


def flush() -> None:
    """Return when every line is written, or nobody has read them for LAST_WORDS_S."""
    if _settings.writer is not None:
        _settings.writer.flush(LAST_WORDS_S)


def _dropped(render: Processor, count: int) -> str:
    event = {
        "event": "log lines were dropped, nobody read them in time",
        "level": "warning",
        "logger": "kqs.log",
        "count": count,
    }
    return str(render(None, "warning", structlog.processors.TimeStamper(fmt="iso", utc=True)(None, "warning", event)))


def _admit(_logger: object, method: str, event: EventDict) -> EventDict:
    if _LEVELS[method] < _settings.level:
        raise structlog.DropEvent
    return event


def _adopt_logging(level: int, render: Processor) -> None:
    """Let `logging` write as we do, from the same level up; of libraries that are ours rather than users', only trouble."""
    handler = _LoggingHandler()
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_PREPARE, processors=[remove_meta, render]))
    root = logging.getLogger()
    for known in [known for known in root.handlers if isinstance(known, _LoggingHandler)]:
        root.removeHandler(known)
    root.addHandler(handler)
    root.setLevel(level)
    for name in ("asyncio", "pymongo"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.basicConfig = _basic_config


class _LoggingHandler(logging.Handler):
    """Takes what is written through `logging`."""

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        try:
            _settings.write(self.format(record))
        except Exception:
            self.handleError(record)


_standard_basic_config = logging.basicConfig


@wraps(_standard_basic_config)
def _basic_config(**settings: Any) -> None:
    """Configure `logging` as asked. The standard one does nothing where a handler stands, and ours would be in users' way."""
    root = logging.getLogger()
    if settings:
        for ours in [handler for handler in root.handlers if isinstance(handler, _LoggingHandler)]:
            root.removeHandler(ours)
    _standard_basic_config(**settings)


class _Lines:
    """What structlog calls with a finished line."""

    def __init__(self, name: str) -> None:
        self.name = name

    def msg(self, line: str) -> None:
        _settings.write(line)

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


PROCESSORS[:] = [_admit, *_PREPARE, render_text]
