"""The orderly stop of a process: who asked for it, and which exit code its cause makes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kqs.errors import ExitCode, JournalCorruptError, KqsError, StartupError, StoreCorruptError, StoreDoubtError
from kqs.log import get_logger

log = get_logger("kqs")


class StopSwitch:
    """Turned by a signal, `quit`, or a service that died; turned again, nothing changes. on_turn: called each time."""

    def __init__(self, on_turn: Callable[[], None]) -> None:
        self._event = asyncio.Event()
        self._on_turn = on_turn
        self._cause: BaseException | None = None

    @property
    def exit_code(self) -> ExitCode:
        """Return what the process ends with."""
        return _exit_code(self._cause)

    def request(self) -> None:
        """Begin the orderly stop."""
        self._on_turn()
        self._event.set()

    def fail(self, name: str, error: BaseException) -> None:
        """Stop because the task `name` died of `error`. One that was foreseen needs no traceback. Call it once."""
        if isinstance(error, KqsError):
            log.error(f"stopping, for {error}", task=name, exit_code=int(_exit_code(error)))
        else:
            log.error("a service died, stopping", task=name, exc_info=error)
        self._cause = error
        self.request()

    async def wait(self) -> None:
        """Return when the stop was requested."""
        await self._event.wait()


def _exit_code(cause: BaseException | None) -> ExitCode:
    if cause is None:
        return ExitCode.OK
    if isinstance(cause, StartupError):
        return cause.exit_code
    if isinstance(cause, StoreDoubtError):
        return ExitCode.IO_FAILED
    return ExitCode.DATA_DAMAGED if isinstance(cause, (StoreCorruptError, JournalCorruptError)) else ExitCode.SOFTWARE
