"""A thread that hears signals, and sees to it that the process ends, whatever holds the main thread.

A signal's handler in Python runs on the main thread only, and the loop hears of a signal only when it turns. So the
interpreter is told to write the numbers of signals into a pipe that this thread reads. It hands the first request to stop to
the loop, which stops in good order; it ends the process if that does not happen: at the second signal, when a handler holds the
loop beyond the grace, and when what users' code left behind (threads, hooks, pools) keeps the interpreter from its end. Ended
so, the process loses nothing that it has acknowledged: what was not flushed was not answered. While there is nothing to end, it
looks at whether the loop turns (kqs.process.held).

Signals that users' code gave away it takes back by itself as well, since that code may then hold the main thread.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import math
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from posix import _exit as leave_now  # as in forks.py
from types import FrameType
from typing import NoReturn

from kqs import log as logs
from kqs.errors import ExitCode
from kqs.newthread import new_thread
from kqs.process import forks
from kqs.process.actions import Action, action_of, put_back
from kqs.process.descriptors import is_open
from kqs.process.held import HeldLoop
from kqs.process.holder import holder_of_loop, where_held
from kqs.supervisor import Supervisor

log = logs.get_logger("kqs")

#: how much longer than the workers' grace an orderly stop may take, in s
STOP_MARGIN_S = 30.0
#: the loop is given up when it has not turned for so long, in s, after the grace
HELD_S = 3.0
#: a start that is told to stop has so long to close what it has opened, in s
START_MARGIN_S = 5.0
#: what users' code left behind may hold up the interpreter's end for so long, in s
LEAVE_S = 2.0
_TICK_MS = 250
#: how often signals that users' code gave away are taken back, in s
_KEEP_S = 1.0

_STOPS = (signal.SIGTERM, signal.SIGINT)
#: what stands in a handler's place where none of Python's hears, or one that the loop ends of
_DEAF = (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler)
#: no file has it
_NO_PIPE: forks.Identity = (-1, -1)


class Sentry:
    """See the module docstring. One a process; `start` and `attach` are for the main thread, all else is for any."""

    def __init__(self, grace_s: float) -> None:
        """Args: grace_s: how long runs may go on in a stop, in s; < 0: as long as they take."""
        self._grace_s = math.inf if grace_s < 0 else grace_s
        self._ear = self._mouth = -1
        self._pipe = _NO_PIPE
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_fd = -1
        self._on_stop: Callable[[], None] | None = None
        self._signal_count = 0
        self._taken: dict[signal.Signals, Action] = {}
        self._is_serving = False
        self._stopping_at: float | None = None
        self._turned_at = 0.0
        self._held = HeldLoop()
        self._leaving: tuple[float, ExitCode] | None = None

    def start(self) -> None:
        """Hear signals. Until `begin` one that asks for a stop ends the process: there is nothing to put in order."""
        self._open()
        for number in _STOPS:
            # ignored is what a shell makes SIGINT for what a script starts in the background
            if number is signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
                self._take(number)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
            self._take(signal.SIGHUP)
        self._hears_hangup = _has_terminal()
        atexit.register(self._end_of_exit)

    def _open(self) -> None:
        """Hear signals through a new pipe, in place of one that is broken. Raises: OSError: there is none, or no thread."""
        ear, mouth = os.pipe()
        try:
            for number in (ear, mouth):
                os.set_blocking(number, False)
            pipe = forks.own(ear)
            new_thread(self._watch, "kqs-sentry", ear, pipe)
        except OSError:
            os.close(ear)
            os.close(mouth)
            raise
        if _is_of(self._ear, self._pipe):
            os.close(self._ear)
        if _is_of(self._mouth, self._pipe) or (self._mouth >= 0 and not is_open(self._mouth)):
            os.dup2(mouth, self._mouth, inheritable=False)  # the loop puts back this number at its end
            os.close(mouth)
            mouth = self._mouth
        forks.disown(self._pipe)
        self._ear, self._mouth, self._pipe = ear, mouth, pipe
        signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)

    def _mend(self) -> None:
        """See to it that nobody has closed the pipe. Call in the main thread. Raises: OSError: there is none to be had."""
        if not all(_is_of(number, self._pipe) for number in (self._ear, self._mouth)):
            self._open()
            log.warning("users' code closed what signals are heard by, opening it anew")

    def _take(self, number: signal.Signals) -> None:
        forks.take_signal(number, self._heard)
        self._taken[number] = action_of(number)

    def keep(self, supervisor: Supervisor) -> None:
        """Hear signals whatever users' code makes of them: at once, and then each second. Call in the running loop, once.

        A function in place of ours does no harm, for the interpreter writes the number before it calls it. Without one it does
        not: the kernel ends the process, or drops the signal. `loop.remove_signal_handler` leaves that behind.
        """
        supervisor.call_later(_KEEP_S, "sentry", self.keep, supervisor)
        self._held.turned()
        with contextlib.suppress(OSError):  # no descriptor is left, or what stands there is closed
            self._mend()
            self.attach()
        for number in self._taken:
            if any(signal.getsignal(number) is none for none in _DEAF):
                signal.signal(number, self._heard)
                log.warning("users' code gave a signal of the server's away, taking it back", signal=number.name)

    def attach(self) -> None:
        """Go on hearing signals while the running loop turns, which takes them for itself each time it begins to.

        It is handed every number, for the handlers that users' code may have set.
        """
        self._loop = asyncio.get_running_loop()
        taken = signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)
        if taken not in (-1, self._mouth):
            if self._loop_fd >= 0:
                os.close(self._loop_fd)
            self._loop_fd = os.dup(taken)  # of our own: the loop closes its, and another file gets the number
            forks.own(taken)

    def begin(self, on_stop: Callable[[], None]) -> None:
        """Let a signal stop what is begun now: `on_stop` is called on the loop."""
        self._on_stop = on_stop

    def serving(self) -> None:
        """Take it that the start is over: a stop must let runs finish."""
        self._is_serving = True

    def stopping(self) -> None:
        """Bound the stop that begins. Idempotent; call from any thread."""
        if self._stopping_at is None:
            self._turned_at = self._stopping_at = time.monotonic()
            self._wake()

    def leave(self, code: ExitCode) -> None:
        """Bound what is left of the process, of which all that is ours is closed."""
        self._leaving = (time.monotonic() + LEAVE_S, code)
        self._wake()

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        """Tell the thread what it should have heard itself, unless users' code had the pipe taken out.

        The loop does that when the last handler that was added to it is removed.
        """
        with contextlib.suppress(OSError):  # full, so that it wakes anyhow, or there is none to be had
            pipe = self._pipe
            self._mend()
            if signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False) != self._mouth or pipe != self._pipe:
                os.write(self._mouth, bytes([number]))

    def _wake(self) -> None:
        if _is_of(self._mouth, self._pipe):
            with contextlib.suppress(BlockingIOError):
                os.write(self._mouth, b"\0")

    def _watch(self, ear: int, pipe: forks.Identity) -> None:
        """Listen at one pipe, until somebody has closed it, and another takes its place.

        Users' code may raise an exception in any thread of the process: this one goes on, or no signal would be heard any more.
        """
        poll = select.poll()
        poll.register(ear, select.POLLIN)
        is_open = True
        while is_open:
            try:
                is_open = self._listen(ear, pipe, poll)
            except BaseException as fault:
                log.error("an error was raised into the thread that hears signals, which goes on", error=type(fault).__name__)

    def _listen(self, ear: int, pipe: forks.Identity, poll: select.poll) -> bool:
        """Wait for a signal, or a while, and see to what follows; False: somebody has closed the pipe."""
        is_timed = self._stopping_at is not None or self._leaving is not None
        if poll.poll(_TICK_MS if is_timed else _KEEP_S * 1000):
            if not (_is_of(ear, pipe) and (numbers := os.read(ear, 4096))):
                return False
            self._hear(numbers)
        elif not is_timed and self._is_serving:
            self._held.look()
        for number, action in tuple(self._taken.items()):
            put_back(number, action)
        self._look()
        return True

    def _hear(self, numbers: bytes) -> None:
        if self._loop_fd >= 0:
            with contextlib.suppress(OSError):  # full, so that it wakes anyhow, or closed
                os.write(self._loop_fd, numbers)
        for number in numbers:
            if number in _STOPS:
                self._signal_count += 1
                self._request(number)
            elif number == signal.SIGHUP:
                if self._hears_hangup:
                    self._request(number)
                else:
                    log.info("SIGHUP ignored: there is no terminal that could have gone")

    def _request(self, number: int) -> None:
        if self._signal_count > 1:
            self._end(ExitCode.OK if self._leaving is None else self._leaving[1], "stopping at once")
        loop, on_stop = self._loop, self._on_stop
        if loop is None or on_stop is None:
            self._end(ExitCode.OK, f"stopped by {signal.Signals(number).name} before anything had begun")
        if self._leaving is None:
            self.stopping()
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(on_stop)

    def _look(self) -> None:
        now = time.monotonic()
        if self._leaving is not None:
            deadline, code = self._leaving
            if now >= deadline:
                self._end(code, "threads or hooks of handlers hold up the end, leaving without them")
        elif self._stopping_at is not None:
            self._look_at_stop(now, self._stopping_at)

    def _look_at_stop(self, now: float, began_at: float) -> None:
        if not self._is_serving:
            if now >= began_at + START_MARGIN_S:
                self._end(ExitCode.OK, "stopped while it was starting")
            return
        grace_ends_at = began_at + self._grace_s
        if now >= grace_ends_at and now >= self._turned_at + HELD_S:
            self._end(ExitCode.SOFTWARE, _what_holds_the_loop())
        if now >= grace_ends_at + STOP_MARGIN_S:
            self._end(ExitCode.SOFTWARE, "the stop takes too long, stopping at once: runs in progress count as ghosts")
        with contextlib.suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._turned)

    def _turned(self) -> None:
        self._turned_at = time.monotonic()

    def _end(self, code: ExitCode, message: str) -> NoReturn:
        with contextlib.suppress(OSError):  # no thread can be had
            new_thread(_say_last, "kqs-last-words", message).join(logs.LAST_WORDS_S)
        _end_children()
        leave_now(code)

    def _end_of_exit(self) -> None:
        """Leave before the interpreter takes itself apart: nobody bounds what objects of users' code do in that."""
        if self._leaving is not None:
            logging.shutdown()
            _flush_output()
            os._exit(self._leaving[1])


def _is_of(number: int, pipe: forks.Identity) -> bool:
    """Tell whether a descriptor is an end of this pipe: it may have been closed, and its number be another file's by now."""
    try:
        found = os.fstat(number)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == pipe


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _what_holds_the_loop() -> str:
    holder = holder_of_loop()
    lost = "its run counts as a ghost" if holder is None or holder.is_users else "runs in progress count as ghosts"
    return f"{where_held(holder)}, stopping without it: {lost}"


def _say_last(message: str) -> None:
    log.warning(message)
    _flush_output()


def _flush_output() -> None:
    logs.flush()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _end_children() -> None:
    """Terminate what users' code started with multiprocessing, as its own hook would: nobody waits for them any more."""
    if (multiprocessing := sys.modules.get("multiprocessing")) is not None:
        for child in multiprocessing.active_children():
            with contextlib.suppress(Exception):
                child.terminate()
