"""The first process of a container: it reaps whatever nobody else will, and hands signals on to the server, its child.

A process whose parent ends becomes a child of the first one, and stays as a zombie until that waits for it. The server cannot:
to wait for any child would take the exit codes from the handlers that wait for theirs.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

#: what the kernel raises for a fault of this very process cannot be handed on
_OWN = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS}
#: a first process that has a terminal must not be stopped by its own child's taking it
_OF_TERMINAL = {signal.SIGTTIN, signal.SIGTTOU, signal.SIGTSTP}


def become_init() -> None:
    """Go on in a child, if this is the first process; return at once otherwise. Call before any thread is started."""
    if os.getpid() == 1:
        _split()


def _split() -> None:
    heard = set(signal.valid_signals()) - _OWN
    before = signal.pthread_sigmask(signal.SIG_BLOCK, heard)  # from here on none is lost: `sigwait` takes them
    child = os.fork()
    if child:
        os._exit(_watch(child, heard))
    os.setpgid(0, 0)  # Ctrl-C on a terminal is for the server alone: handed on as well, it would be two
    with suppress(OSError):
        os.tcsetpgrp(0, os.getpid())
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch(child: int, heard: set[signal.Signals]) -> int:
    """Return the exit code of `child` when it ends, as a shell says it."""
    while True:
        number = signal.sigwait(heard)
        if number == signal.SIGCHLD:
            if (status := _reap(child)) is not None:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
        elif number not in _OF_TERMINAL:
            with suppress(ProcessLookupError):
                os.kill(child, number)


def _reap(child: int) -> int | None:
    """Wait for all who have ended; return the status of `child` if it is among them."""
    ended = None
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            if found[0] == child:
                ended = found[1]
    return ended
