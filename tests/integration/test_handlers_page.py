"""docs/handlers.md does what it says: its modules load, its runs end as written, its first example runs on a real server."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import kqs
from kqs import handlers
from kqs.commands.commands import PASSED
from kqs.config import CommandSection, anchored, load_config
from kqs.executor import Executor
from kqs.handlers import JobContext, Registry
from kqs.job import Claim, Run
from kqs.modules import load_modules, with_commands
from kqs.options import Options
from kqs.outcome import Again, Failed, Ok, Outcome
from tests.support.serving import ROOT, SERVE_ENVIRON, serving
from tests.support.supervising import StrictSupervisor

PAGE = (ROOT / "docs" / "handlers.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass
class Example:
    """text: a module, or a command, whose settings then stand in the block before it."""

    text: str
    settings: str = ""
    ends: list[tuple[bytes, str]] = field(default_factory=list)


def examples() -> list[Example]:
    found: list[Example] = []
    settings = ""
    for language, text in BLOCK.findall(PAGE):
        if language == "toml":
            settings = text
        if language == "python":
            found.append(Example(text))
        elif text.startswith("#!"):
            found.append(Example(text, settings))
        elif language == "text":
            lines = [line.split(" → ") for line in text.splitlines()]
            found[-1].ends += [(data.encode(), end) for data, end in lines]
    return found


def block(language: str) -> str:
    text: str = next(text for found, text in BLOCK.findall(PAGE) if found == language)
    return text


def in_words(outcome: Outcome) -> str:
    match outcome:
        case Ok(result):
            return f"ok {(result or b'null').decode()}"
        case Again(delay_s):
            return "again" if delay_s is None else f"again in {delay_s:g} s"
        case Failed(reason, final):
            return f"fail{' for good' if final else ''}: {reason.splitlines()[0]}"


@pytest.mark.parametrize("number", range(len(examples())))
def test_an_example_loads_and_its_runs_end_as_written(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example, name = examples()[number], f"handlers_page_{number}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(handlers, "default_registry", Registry())
    if example.settings:
        registry = command_in(tmp_path, example)
    else:
        (tmp_path / f"{name}.py").write_text(example.text)
        registry = load_modules([name])
    (type_,) = registry.types
    for data, end in example.ends:
        assert in_words(asyncio.run(outcome_of(registry, type_, data))) == end


def command_in(folder: Path, example: Example) -> Registry:
    """Put a command, and the files that its jobs are about, into a folder."""
    (folder / "kqs.toml").write_text(example.settings)
    config = anchored(load_config(folder / "kqs.toml", {}), folder)
    (section,) = config.commands.values()
    program = Path(section.command[0])
    assert program.parent == folder
    program.write_text(example.text)
    program.chmod(0o700)
    (folder / "notes.txt").write_text("three plain words\n")
    (folder / "empty.txt").touch()
    return with_commands(Registry(), config)


async def outcome_of(registry: Registry, type_: str, data: bytes) -> Outcome:
    handler, executor = registry.get(type_), Executor(1, StrictSupervisor())
    assert handler is not None
    run = Run(Claim(1, "id-1", 1, 1), type_, 10_000, data, None)
    await executor.admit(handler)
    try:
        return await executor.execute(run, handler, JobContext(run, Options(), lambda: 0.0))
    finally:
        executor.close()
        await executor.wait_closed()


def test_the_table_of_options_is_complete() -> None:
    table = PAGE[PAGE.index("| option |") :]
    first_cells = "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("|"))
    assert set(re.findall(r"`(\w+)`", first_cells)) == set(Options.__struct_fields__)


def test_the_table_of_a_commands_limits_is_complete() -> None:
    table = PAGE[PAGE.index("| setting of") :].partition("\n\n")[0]
    names = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    assert names == set(CommandSection.__struct_fields__) - {"command"}


def test_what_the_page_says_that_a_command_finds_is_passed_on() -> None:
    table = PAGE[PAGE.index("| it finds") :].partition("\n\n")[0]
    names = {"KQS_JOB_ID", "KQS_JOB_TYPE", "KQS_JOB_ATTEMPT", "KQS_JOB_PROGRESS", "KQS_JOB_BATCH", *PASSED}
    assert set(re.findall(r"`([A-Z_]+)`", table)) == names


def test_what_the_page_says_of_a_job_is_there() -> None:
    for name in re.findall(r"`job\.(\w+)", PAGE):
        assert hasattr(kqs.JobContext, name)


def test_the_first_example_runs_on_a_real_server(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(block("python"))
    (tmp_path / "kqs.toml").write_text(block("toml"))
    serving_block, asking_block = [text for language, text in BLOCK.findall(PAGE) if language == "sh"][:2]
    (serve,) = (shlex.split(line) for line in serving_block.splitlines())
    insert, show = (shlex.split(line) for line in asking_block.splitlines())
    with serving(tmp_path, on_this_python(serve)) as served:

        def run(command: list[str]) -> str:
            environ = SERVE_ENVIRON | {"KQS_SERVER": f"127.0.0.1:{served.port}"}
            return subprocess.check_output(on_this_python(command), cwd=tmp_path, env=environ, text=True, timeout=60)

        assert run(insert).strip() == "first"
        while "success" not in (record := run([*show, "--json"])):
            assert json.loads(record)["state"] in ("new", "processing")
        assert json.loads(record)["result"] == "hello Ann"


def on_this_python(command: list[str]) -> list[str]:
    assert command[0] == "kqs"
    return [sys.executable, "-m", *command]
