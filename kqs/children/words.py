"""What a server and a child process say to each other, beside the calls: one brief on stdin, and lines of JSON back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

import kqs
from kqs.config import Config, LogSection, WorkerSection
from kqs.config.sections import CommandSection
from kqs.words.printable import printable

#: descriptors under which a child finds its connection, and where it tells how it is
WIRE = 3
STATUS = 4

#: why a child leaves that is worn, by the setting that says so
TOO_MANY_JOBS = "max_jobs"
TOO_MUCH_MEMORY = "max_rss_bytes"

#: a pipe takes no more at once, in bytes; longer lines would be cut where it is full
_LINE_BYTES = 4096
#: what a line tells of problems, and of why a child leaves or cannot work: twice as many bytes as these fit it (`_ascii`)
_MOST_PROBLEMS = 8
_PROBLEM_CHARS = 200
_WHY_CHARS = 600


class Born(msgspec.Struct, tag="born"):
    """It is there."""

    pid: int


class Ready(msgspec.Struct, tag="ready"):
    """It asks for jobs."""


class Beat(msgspec.Struct, tag="beat"):
    """Its loop turns. problems: what is wrong with its handlers, in words."""

    problems: list[str]


class Leaving(msgspec.Struct, tag="leaving"):
    """It is about to ask for no more jobs, and to end when those that it runs have ended: another is needed."""

    why: str


class Unfit(msgspec.Struct, tag="unfit"):
    """It cannot start."""

    why: str


Word = Born | Ready | Beat | Leaving | Unfit

_decoder = msgspec.json.Decoder(Word)


def told(word: Word) -> bytes:
    """Return the line of a word, short enough for a pipe to take it as a whole or not at all."""
    match word:
        case Beat(problems):
            word = Beat([_ascii(problem)[:_PROBLEM_CHARS] for problem in problems[:_MOST_PROBLEMS]])
        case Leaving(why) | Unfit(why):
            word = type(word)(_ascii(why)[:_WHY_CHARS])
        case _:
            pass
    line = msgspec.json.encode(word) + b"\n"
    assert len(line) <= _LINE_BYTES
    return line


def heard(line: bytes) -> Word:
    """Return the word of a line. Raises: msgspec.MsgspecError: it is none."""
    word: Word = _decoder.decode(line)
    return word


def _ascii(text: str) -> str:
    """Return a text of which JSON makes at most two bytes a character."""
    return printable(text.replace("\n", " ")).encode("ascii", "backslashreplace").decode("ascii")


def brief_of(config: Config, number: int, path: list[str]) -> bytes:
    """Return what a child is told: which one it is, where our package is, where modules are looked for, and those of the
    settings that it needs.
    """
    settings: dict[str, Any] = {
        "worker": msgspec.structs.asdict(config.worker),
        "log": msgspec.structs.asdict(config.log),
        "commands": {type_: msgspec.structs.asdict(section) for type_, section in config.commands.items()},
        "folder": str(config.folder),
    }
    return json.dumps({"number": number, "home": kqs.__file__, "path": path, "settings": settings}).encode()


def config_of(brief: dict[str, Any]) -> Config:
    """Return the settings of a brief that was decoded."""
    settings = brief["settings"]
    return Config(
        worker=WorkerSection(**settings["worker"]),
        log=LogSection(**settings["log"]),
        commands={type_: CommandSection(**section) for type_, section in settings["commands"].items()},
        folder=Path(settings["folder"]),
    )
