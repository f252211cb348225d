"""The helper process of which minders are forked, from the server's side. Call from the loop thread."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from kqs import minding
from kqs.minding.frames import CONTROL, Kind, encoded
from kqs.process import forks
from kqs.supervisor import Supervisor

#: makes a package `kqs` that has the modules and none of the imports of ours, which take ten times as much memory and time
_MAIN = """
import sys, types
kqs = sys.modules["kqs"] = types.ModuleType("kqs")
kqs.__path__ = [sys.argv[1]]
from kqs.minding.keeper import main
main(int(sys.argv[2]))
"""
#: without the user's settings, and without site-packages, which nothing is needed of
FLAGS = ("-I", "-S", "-X", "utf8")
#: all that it is given of the environment: what a Python that is not installed with the system may need
ENVIRON = ("LD_LIBRARY_PATH",)


class Keeper:
    """One such process. It ends when it is closed, or this process is gone."""

    def __init__(self, supervisor: Supervisor, on_end: Callable[[], None]) -> None:
        """Start it. Raises: OSError. Args: on_end: told when it has ended."""
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._pid = _start(theirs)
            self._pidfd = _watched(self._pid)
        except BaseException:
            self._control.close()
            raise
        self._control.setblocking(False)
        self._identity = forks.own(self._control.fileno())
        self._loop.add_reader(self._pidfd, supervisor.guard, "commands", self._ended)

    def fork(self, passed: Sequence[int] = ()) -> socket.socket:
        """Have it fork a minder; return our end of the channel to that. Raises: OSError: no descriptor, or it is gone.

        Args: passed: descriptors of what a child process is to find open, if the minder is to have one in place of commands.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._control, [encoded(Kind.FORK)], [theirs.fileno(), *passed])
        except OSError:
            ours.close()
            raise
        return ours

    def kill(self, minder: int) -> None:
        """Have it kill a minder, and what that runs: a command may have stopped it."""
        with suppress(OSError):
            self._control.send(encoded(Kind.KILL, str(minder).encode()))

    def close(self) -> None:
        """Want no more minders: it ends when they have. Idempotent."""
        if self._control.fileno() >= 0:
            forks.disown(self._identity)
            self._control.close()

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        with suppress(ChildProcessError):  # users' code has waited for any child
            os.waitpid(self._pid, 0)
        self.close()
        self._on_end()


def _watched(pid: int) -> int:
    """Return a descriptor that tells of the end of a child. Raises: OSError: there is none, and the child is killed."""
    try:
        return os.pidfd_open(pid)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _start(control: socket.socket) -> int:
    argv = [sys.executable, *FLAGS, "-c", _MAIN, str(Path(minding.__file__).parents[1]), str(os.getpid())]
    return os.posix_spawn(
        sys.executable,
        argv,
        {name: os.environ[name] for name in ENVIRON if name in os.environ},
        file_actions=[
            (os.POSIX_SPAWN_DUP2, control.fileno(), CONTROL),
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
    )
