"""Commands for tests: shell scripts, what is left of them, and an executor that runs them."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from kqs.executor import Executor
from kqs.handlers import Handler, JobContext, Registry
from kqs.job import Claim, Run
from kqs.minding.command import Command
from kqs.minding.limits import Limits
from kqs.options import Options
from kqs.outcome import Outcome
from tests.support.asking import eventually


def settings_of(script: str, **more: object) -> str:
    """Return a section [types.NAME] whose command is a shell script, as the environment has it."""
    return json.dumps({"command": ["sh", "-c", script], **more})


def nap() -> str:
    """Return a shell command that sleeps for longer than any test takes, and that `alive` tells from all others."""
    return f"sleep {10_000 + secrets.randbelow(10**9)}"


def alive(*naps: str) -> list[str]:
    """Return which of these commands run on this machine."""
    lines = [" ".join(words) for words in command_lines().values()]
    return [line for line in lines if line in naps]


def until_running(*naps: str) -> None:
    """Wait until each of these commands runs, as often as it is named."""
    eventually(lambda: alive(*naps), lambda found: len(found) == len(naps), what="running")


def until_gone(*naps: str) -> None:
    """Wait until none of these commands runs any more."""
    eventually(lambda: alive(*naps), lambda found: found == [], what="gone")


def command_lines() -> dict[int, list[str]]:
    """Return the words of the command line of each process by its number; zombies have none."""
    lines = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if text:
            lines[int(path.parent.name)] = text.removesuffix("\0").split("\0")
    return lines


def handler_of(argv: list[str], folder: Path, output_bytes: int = 2**20, **limits: int) -> Handler:
    """Return the handler of a command."""
    found = Registry().with_commands({"resize": Command(argv, str(folder), output_bytes, Limits(**limits))}).get("resize")
    assert found is not None
    return found


async def run_command(executor: Executor, handler: Handler, data: bytes = b"null") -> Outcome:
    """Run a job of this handler."""
    run = Run(Claim(1, "id-1", 2, 1), "resize", 10_000, data, None)
    await executor.admit(handler)
    return await executor.execute(run, handler, JobContext(run, Options(), lambda: 0.0))
