from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from kqs.children.words import Beat, Born, Leaving, Ready, Unfit, Word, brief_of, config_of, heard, told
from kqs.config import Config, LogSection, StoreSection, WorkerSection
from kqs.config.sections import CommandSection


@pytest.mark.parametrize("word", [Born(17), Ready(), Beat([]), Beat(["one", "two"]), Leaving("max_jobs"), Unfit("no module")])
def test_a_word_is_heard_as_it_was_told(word: Word) -> None:
    assert heard(told(word).removesuffix(b"\n")) == word


@pytest.mark.parametrize(
    "word", [Beat(["\udcff\n" * 10_000] * 100), Beat(["\x01\t" * 10_000] * 100), Unfit("é" * 100_000), Leaving('"\\' * 10_000)]
)
def test_a_word_of_any_length_is_a_line_that_a_pipe_takes_as_a_whole(word: Word) -> None:
    line = told(word)
    assert len(line) <= 4096
    assert line.index(b"\n") == len(line) - 1
    assert type(heard(line)) is type(word)


@pytest.mark.parametrize("line", [b"", b"null", b'{"type":"else"}', b'{"type":"born","pid":"x"}', b"print"])
def test_what_else_is_written_there_is_none(line: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        heard(line)


def test_a_brief_has_what_a_child_needs_and_no_secret() -> None:
    config = Config(
        worker=WorkerSection(modules=["shop"], processes=2, max_jobs=7, types=["a"]),
        log=LogSection(format="json"),
        commands={"résumé": CommandSection(command=["./x", "ü"], cpu_s=3)},
        folder=Path("/srv/\udcffkqs"),
        store=StoreSection(kind="mongodb", uri="mongodb://user:secret@db"),
    )
    brief = brief_of(config, 3, ["", "/lib", "/odd\udcff"])
    assert b"secret" not in brief
    read = json.loads(brief)
    assert (read["number"], read["path"]) == (3, ["", "/lib", "/odd\udcff"])
    found = config_of(read)
    assert (found.worker, found.log, found.commands, found.folder) == (
        config.worker,
        config.log,
        config.commands,
        config.folder,
    )
