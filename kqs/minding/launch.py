"""How a command is started by its minder. Every descriptor of a helper process but 0, 1 and 2 closes itself as one begins."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
from typing import NoReturn

from kqs.minding.frames import Order, Unstarted
from kqs.minding.limits import RLIMITS

# prctl(2)
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36

#: what Python or a helper process ignores, and a command would go on ignoring
IGNORED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

#: what a command without a limit finds, and may raise, as is usual: descriptors beyond that are more than select(2) can bear
OPEN_FILES = 1024

_libc = ctypes.CDLL(None, use_errno=True)


def set_name(name: bytes) -> None:
    """Have `ps` and `top` show this process under a name."""
    _libc.prctl(_PR_SET_NAME, name, 0, 0, 0)


def lower_open_files() -> None:
    """Let commands find the usual limit in place of the server's own, which is for its connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft > OPEN_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, hard))


def adopt_orphans() -> None:
    """Become the parent of all that come of this process and lose theirs, so that nothing gets away. Not inherited."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def begin(order: Order, streams: tuple[int, ...]) -> int:
    """Start a command without limits; return its process. Raises: OSError: as exec.

    The system does in one step what would take a fork of this process and Python's work in the child: runs are three times as
    many a second. It searches our own PATH, and begins in our own folder.
    Args: streams: what it finds open, from 0 on; none of a number that is to be given to another before.
    """
    os.environ["PATH"] = order.environ.get("PATH", os.defpath)
    return os.posix_spawnp(
        order.command.argv[0],
        order.command.argv,
        order.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, stream, place) for place, stream in enumerate(streams)],
        setsid=True,
        setsigdef=IGNORED,
    )


def become(order: Order, streams: tuple[int, int, int], fault: int) -> NoReturn:
    """Become a command with limits, in a forked child: they must hold from its first step on.

    What keeps it from that is written to `fault`, which is closed without a word otherwise.
    """
    command = order.command
    step = "session"
    try:
        os.setsid()
        for number in IGNORED:
            signal.signal(number, signal.SIG_DFL)
        for place, stream in enumerate(streams):
            os.dup2(stream, place)
        for name, value in command.limits._asdict().items():
            if value:
                step = name
                _limit(name, value)
        step = command.argv[0]
        os.execvpe(command.argv[0], command.argv, order.environ)  # noqa: S606 - without a shell, as it should be
    except BaseException as error:
        why = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None) or 0
        os.write(fault, f"{why} {step}".encode(errors="replace"))
    finally:
        os._exit(127)


def why_not(told: bytes) -> Unstarted:
    """Return what `become` wrote to `fault`."""
    number, _, step = told.decode(errors="replace").partition(" ")
    return Unstarted(int(number), step)


def _limit(name: str, soft: int) -> None:
    """Set a limit, or leave what is stricter already."""
    system_name, later = RLIMITS[name]
    kind, hard = getattr(resource, system_name), soft + later
    _, most = resource.getrlimit(kind)
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(kind, (soft, hard))
