"""What a process that users' code forks off this one has of it: nothing.

A forked child shares every descriptor of its parent. Without care a signal to the child stops the server, since both write into
one pipe; an orphan keeps the port and the journal's lock after the server was killed; and a child that returns from the handler
goes on as a second server. So a child gets back the signal handlers that were there before ours, finds /dev/null wherever
something of ours was open, and is ended when it comes back into the server's code.

Descriptors are replaced, not closed: objects that the child inherits close theirs some day, and must not hit a file of its own
under the same number. They are told by what they are, not by their numbers: a list of numbers is outdated between an `open` and
its entry.
"""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import socket
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from posix import _exit as leave_now  # what tools put in place of `os._exit` does more, and takes locks
from types import FrameType
from typing import Any

from kqs.errors import ExitCode

_DESCRIPTORS = Path("/proc/self/fd")
_GONE = " (deleted)"
_ANY_HOST = ("0.0.0.0", "::")  # noqa: S104 - to compare with

Identity = tuple[int, int]
#: a folder and patterns
Owned = tuple[str, tuple[str, ...]]


class _Guard:
    """What is ours. is_child: this process is a fork of the server's; read at each end of a run."""

    def __init__(self) -> None:
        self.is_child = False
        self.is_installed = False
        self.is_parting = False
        self.signals: dict[int, tuple[Any, Any]] = {}
        self.identities: set[Identity] = set()
        self.files: dict[Owned, Identity | None] = {}
        self.ports: set[tuple[str, int]] = set()
        self.sockets: set[str] = set()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.loop_thread = 0
        self.ready: deque[Any] | None = None
        self.masks = threading.local()


guard = _Guard()


def install() -> None:
    """Watch the forks of this process from now on. Idempotent."""
    if not guard.is_installed:
        guard.is_installed = True
        os.register_at_fork(before=_hold_signals, after_in_parent=_release_signals, after_in_child=_become_child)


def part() -> None:
    """Have what is forked off find /dev/null in place of all that is ours, and all else as ever. Idempotent.

    For programs whose process is not ours: a child that outlives it would hold its folders for as long as it likes.
    """
    if not guard.is_parting:
        guard.is_parting = True
        os.register_at_fork(after_in_child=_part)


def _part() -> None:
    if not guard.is_installed:
        _let_go()
        guard.identities.clear()
        guard.files.clear()


def take_signal(number: int, handler: Callable[[int, FrameType | None], None]) -> None:
    """Have `handler` called at a signal, but not in a child: that gets back what there was, unless it was replaced since."""
    guard.signals[number] = (handler, signal.signal(number, handler))


def own(number: int) -> Identity:
    """Count what is open under this descriptor as ours, until `disown`."""
    found = os.fstat(number)
    identity = (found.st_dev, found.st_ino)
    guard.identities.add(identity)
    return identity


def disown(identity: Identity) -> None:
    """Forget what `own` returned this for."""
    guard.identities.discard(identity)


def own_files(folder: Path, patterns: Sequence[str]) -> Owned:
    """Count the files with such names in this folder as ours, until `disown_files`. Call again when it was made.

    Args: patterns: as fnmatch has them.
    """
    identity = None
    with suppress(OSError):
        found = folder.stat()
        identity = (found.st_dev, found.st_ino)
    owned = (str(folder.resolve()), tuple(patterns))
    guard.files[owned] = identity
    return owned


def disown_files(owned: Owned) -> None:
    """Forget what `own_files` returned this for. Idempotent."""
    guard.files.pop(owned, None)


def own_folder(folder: Path) -> Identity | None:
    """Count what is open of this folder itself as ours, until `disown`: its lock is. None: there is no such folder."""
    with suppress(OSError):
        found = folder.stat()
        identity = (found.st_dev, found.st_ino)
        guard.identities.add(identity)
        return identity
    return None


def own_addresses(addresses: Iterable[tuple[str, int]], unix: Path | None) -> None:
    """Count sockets that listen on these, or were accepted there, as ours."""
    guard.ports |= set(addresses)
    if unix is not None:
        guard.sockets.add(str(unix))


def own_loop() -> None:
    """Take the running loop, and the thread it runs in, for the server's."""
    loop = asyncio.get_running_loop()
    guard.loop, guard.loop_thread = loop, threading.get_ident()
    guard.ready = _ready_queue(loop)


def end_child() -> None:
    """End this process if it is a fork of the server's: what comes now is not its business."""
    if guard.is_child:
        with suppress(OSError):
            os.write(2, b"kqs: a process that a handler has forked came back from it and is ended; end such with os._exit\n")
        leave_now(ExitCode.SOFTWARE)


def _ready_queue(loop: asyncio.AbstractEventLoop) -> deque[Any] | None:
    """Return the queue of callbacks that `loop` is about to call, if it lets itself be looked into."""
    handle = loop.call_soon(lambda: None)
    found = [each for each in gc.get_referents(loop) if isinstance(each, deque) and handle in each]
    return found[0] if len(found) == 1 else None


def _hold_signals() -> None:
    # a signal that meets the child before its handlers are its own would be taken for the server's
    guard.masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _release_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, guard.masks.before)


def _become_child() -> None:
    if guard.is_child:  # what forks in a child is the child's own business
        _release_signals()
        return
    guard.is_child = True
    try:
        _let_signals_be()
        _bar_the_loop()
        _let_go()
    except KeyboardInterrupt:  # the child was not one yet; nothing that is raised here would reach it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def _let_signals_be() -> None:
    signal.set_wakeup_fd(-1)
    for number, (ours, before) in guard.signals.items():
        if signal.getsignal(number) == ours:
            signal.signal(number, before)
    _release_signals()


def _bar_the_loop() -> None:
    """Have the loop, should the child come back to it, call nothing before `end_child`."""
    if guard.loop is None or threading.get_ident() != guard.loop_thread or guard.loop.is_closed():
        return
    _deafen(guard.loop)
    guard.loop.call_soon(end_child)
    if guard.ready is not None:
        guard.ready.rotate(1)


def _deafen(loop: asyncio.AbstractEventLoop) -> None:
    """Put an empty list of what to wait for in place of the one that is shared with the parent.

    A loop on its way out of an exception looks once more: a wake-up that the child took would be missing in the parent, whose
    loop would never hear its threads again.
    """
    backend = getattr(loop, "_get_backend_id", None)  # uvloop's
    if backend is not None:
        with select.epoll() as nothing:
            os.dup2(nothing.fileno(), backend(), inheritable=False)


def _let_go() -> None:
    """Put /dev/null in place of all that is ours."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in [int(path.name) for path in _DESCRIPTORS.iterdir()]:
        if number > 2 and number != nothing and _is_ours(number):
            with suppress(OSError):
                os.dup2(nothing, number, inheritable=False)
    os.close(nothing)


def _is_ours(number: int) -> bool:
    try:
        found = os.fstat(number)
        if (found.st_dev, found.st_ino) in guard.identities:
            return True
        if stat.S_ISSOCK(found.st_mode):
            return _is_our_socket(number)
        return stat.S_ISREG(found.st_mode) and _is_our_file((_DESCRIPTORS / str(number)).readlink())
    except OSError:
        return False


def _is_our_socket(number: int) -> bool:
    sock = socket.socket(fileno=number)
    try:
        address = sock.getsockname()
        if sock.family == socket.AF_UNIX:
            return address in guard.sockets
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        return any((host, address[1]) in guard.ports for host in (address[0], *_ANY_HOST))
    finally:
        sock.detach()


def _is_our_file(path: Path) -> bool:
    name = path.name.removesuffix(_GONE)
    for (folder, patterns), identity in guard.files.items():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            if str(path.parent) == folder:
                return True
            with suppress(OSError):  # it may have been renamed
                found = path.parent.stat()
                if (found.st_dev, found.st_ino) == identity:
                    return True
    return False
