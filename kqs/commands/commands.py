"""Runs commands. Each run has a minder, a process that ends with all that has come of the command when we say so or are gone.

Call from the loop thread. What a command may see of this process: its environment as `_environ` has it, and nothing else.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from kqs import verdicts
from kqs.commands.minders import Minders
from kqs.commands.verdict import result_of
from kqs.handlers import JobContext
from kqs.job import Run
from kqs.log import get_logger
from kqs.made.progress import checked_progress
from kqs.minding.command import Command
from kqs.minding.frames import Order, Unstarted
from kqs.reasons import reason_of
from kqs.supervisor import Supervisor

_log = get_logger("kqs.commands")

#: what is passed on to commands, if it is set
PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ")
_PATH = "/usr/local/bin:/usr/bin:/bin"


class Commands:
    """See the module docstring."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._minders = Minders(supervisor)
        self._environ = {"PATH": _PATH} | {name: os.environ[name] for name in PASSED if name in os.environ}
        self._missing: dict[str, Command] = {}

    def look_after(self, commands: Mapping[str, Command]) -> None:
        """Say which of these commands, by their types, could not be started now."""
        for type_, command in commands.items():
            if (trouble := self._trouble(command)) is not None:
                self._missing[type_] = command
                _log.warning("a command cannot be started", type=type_, command=command.argv[0], error=trouble)

    def problems(self) -> list[str]:
        """Return what is wrong, in words."""
        found = {type_: self._trouble(command) for type_, command in self._missing.items()}
        self._missing = {type_: command for type_, command in self._missing.items() if found[type_] is not None}
        return [f"the command of type {type_!r} cannot be started: {trouble}" for type_, trouble in found.items() if trouble]

    def _trouble(self, command: Command) -> str | None:
        program = command.argv[0]
        if shutil.which(program, path=self._environ["PATH"]) is not None:
            return None
        if "/" not in program:
            return f"{program}: no such file in {self._environ['PATH']}"
        return f"{program}: {'it cannot be executed' if Path(program).is_file() else 'no such file'}"

    async def run(self, command: Command, context: JobContext) -> object:
        """Run a job; return its result. Cancelled, it ends the command.

        Raises: verdicts.Again, verdicts.Fail.
        """
        try:
            channel = await self._minders.take()
        except OSError as error:
            raise verdicts.Fail(f"no process can be had for the command: {reason_of(error)}", final=False) from None
        run = context.run
        try:
            report = await channel.run(self._order(command, run), _keeper(context))
        except OSError:
            raise verdicts.Fail("the process that watched over the command was killed", final=False) from None
        finally:
            self._minders.give_back(channel)
        if isinstance(report, Unstarted):
            self._missing[run.type] = command
        return result_of(report, command)

    def _order(self, command: Command, run: Run) -> Order:
        job = {"KQS_JOB_ID": run.claim.id, "KQS_JOB_TYPE": run.type, "KQS_JOB_ATTEMPT": str(run.attempt)}
        if run.progress:
            job["KQS_JOB_PROGRESS"] = run.progress.decode(errors="replace")
        if run.batch:
            job["KQS_JOB_BATCH"] = run.batch.decode()
        return Order(command, self._environ | job, run.data)

    def close(self) -> None:
        """Let helper processes that are idle end, and start no more. Idempotent."""
        self._minders.close()

    async def wait_closed(self) -> None:
        """Return when the helper processes have ended, or after a while."""
        await self._minders.wait_closed()


def _keeper(context: JobContext) -> Callable[[bytes], None]:
    """Return what keeps what a command says of its progress; what cannot be kept is told in the log, once a run."""
    is_told = False

    def keep(written: bytes) -> None:
        nonlocal is_told
        try:
            context.keep(checked_progress(written))
        except ValueError as error:
            if not is_told:
                is_told = True
                _log.warning("a command's progress is not kept", type=context.type, job=context.id, error=str(error))

    return keep
