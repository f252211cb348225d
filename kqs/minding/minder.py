"""A process that runs one command after the other, and sees to it that nothing of one is left when it reports its end.

Or it has one child process of the server's, which runs jobs: that is given the server's descriptors, and time to drain.

Every process that comes of a command stays below its minder, whatever it does to its group, its session or its parent: orphans
become children of the minder. So a command has ended without leavings just when the minder has no child.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from kqs.minding import launch
from kqs.minding.frames import (
    Ended,
    FrameReader,
    Kind,
    Order,
    Unstarted,
    decode_order,
    encode_report,
    encoded,
)
from kqs.minding.tail import Tail
from kqs.minding.tree import children, signal_tree

#: between SIGTERM and SIGKILL, in s: less than a cancelled handler may take before it counts as deaf
TERM_S = 0.5
#: how long to try to end what is left, in s: what belongs to another user, or hangs in the kernel, cannot be
LEFT_S = 2.0
#: between two looks for what is left, in s
_LOOK_S = 0.005
#: between two times that the server is told of progress, in s: a command may write them in a loop
TOLD_S = 0.2
_READ_BYTES = 64 * 1024
#: what a child process finds open, from 1 on: stdout, stderr, its connection to the server, and where it tells how it is
PASSED = 4
#: descriptors from here on are none that it is to be given
_ABOVE = 16


class Ear:
    """Hears that a child has ended, through a descriptor. One a process."""

    def __init__(self) -> None:
        self.number, mouth = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before = signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
        if before >= 0:  # of the process that this one was forked from
            os.close(before)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def clear(self) -> None:
        """Forget what was heard."""
        with suppress(BlockingIOError):
            os.read(self.number, _READ_BYTES)


class Minder:
    """See the module docstring. It ends when the server's end of the channel is closed, or the server is gone."""

    def __init__(self, channel: socket.socket, server: int | None, passed: Sequence[int] = ()) -> None:
        """Args: server: a pidfd of the server's process, where there are such. passed: to a child; none: this has commands."""
        self._channel = channel
        self._server = server
        self._passed = passed
        self._reader = FrameReader()
        self._ear = Ear()

    def serve(self) -> int:
        """Take orders until nobody is left to give any; return the exit code: 1 if something may be left."""
        launch.set_name(b"kqs-minder")
        launch.adopt_orphans()
        if not self._send(encoded(Kind.READY, str(os.getpid()).encode())):
            return 0
        while True:
            kinds = self._hear()
            if kinds is None:
                return 0
            for kind, body in kinds:
                if kind == Kind.ORDER:  # else it is the end of an order that has ended already
                    run = self._run(decode_order(body))
                    report = self._watch(run)
                    if report is None or not self._send(encode_report(report)) or not run.is_clean:
                        return 0 if run.is_clean else 1

    def _run(self, order: Order) -> _Run:
        return _ChildRun(order, self._ear, self._passed) if self._passed else _Run(order, self._ear)

    def _send(self, frame: bytes) -> bool:
        try:
            self._channel.sendall(frame)
        except OSError:
            return False
        return True

    def _hear(self) -> list[tuple[int, bytes]] | None:
        """Wait for frames; None: the server is gone."""
        poll = select.poll()
        self._register(poll)
        ready = {number for number, _ in poll.poll()}
        return None if self._server in ready else self._receive()

    def _register(self, poll: select.poll) -> None:
        poll.register(self._channel, select.POLLIN)
        if self._server is not None:
            poll.register(self._server, select.POLLIN)

    def _receive(self) -> list[tuple[int, bytes]] | None:
        try:
            data = self._channel.recv(_READ_BYTES)
        except OSError:
            return None
        return self._reader.receive_data(data) if data else None

    def _watch(self, run: _Run) -> Ended | Unstarted | None:
        """Run a command to its end, and that of all that has come of it; None: nobody waits for the report."""
        if (failure := run.start()) is not None:
            return failure
        poll = run.poll
        self._register(poll)
        is_wanted = True
        while not run.has_ended():
            for number, _ in poll.poll(run.patience_ms()):
                if number == self._server:
                    is_wanted = False
                elif number == self._channel.fileno():
                    is_wanted = is_wanted and self._receive_end(run)
                else:
                    run.attend(number)
            if not is_wanted:
                run.kill()
                break
            run.look_at_time()
            if run.has_progress_due() and self._can_send():
                is_wanted = self._tell(run)
        report = run.finish()
        return report if is_wanted and self._tell(run) else None

    def _tell(self, run: _Run) -> bool:
        """Tell the server how far the command is, if that is news; False: nobody hears it."""
        told = run.take_progress()
        return not told or self._send(b"".join(encoded(Kind.PROGRESS, text) for text in told))

    def _can_send(self) -> bool:
        """Tell whether the server takes a frame at once: it may be held up, and a minder must not be by that."""
        return bool(select.select([], [self._channel], [], 0)[1])

    def _receive_end(self, run: _Run) -> bool:
        frames = self._receive()
        for _ in frames or ():  # nothing else is said to a minder at work
            run.terminate()
        return frames is not None


class _Run:
    """A command at work. is_clean: nothing is left of it."""

    def __init__(self, order: Order, ear: Ear) -> None:
        self._order = order
        self._command = order.command
        self._ear = ear
        self._data = memoryview(order.data)
        self._output = bytearray()
        self._tail = Tail()
        self._is_flooded = False
        self._told = b""
        self._kill_at: float | None = None
        self._tell_at = 0.0
        self._is_killed = False
        self._pid = 0
        self._fault = -1  # what says why a forked child has not become the command
        self._open: set[int] = set()
        self.poll = select.poll()
        self.is_clean = True

    def start(self) -> Unstarted | None:
        """Start the command. Return why that could not be done."""
        pipes: list[tuple[int, int]] = []
        step = "descriptors"
        try:
            for _ in range(3 + any(self._command.limits)):
                pipes.append(os.pipe2(os.O_CLOEXEC))  # noqa: PERF401 - those that there are must be closed if one cannot be
            step = f"folder {self._command.folder}"
            os.chdir(self._command.folder)
            step = self._command.argv[0]
            self._begin(pipes)
        except OSError as error:
            for number in (number for pipe in pipes for number in pipe):
                os.close(number)
            return Unstarted(error.errno or 0, step)
        finally:
            os.chdir("/")
        (stdin, self._stdin), (self._stdout, stdout), (self._stderr, stderr), *more = pipes
        for number in (stdin, stdout, stderr, *(fault for _, fault in more)):
            os.close(number)
        self.poll.register(self._ear.number, select.POLLIN)
        for number in (self._stdout, self._stderr, *(told for told, _ in more)):
            self._add(number, select.POLLIN)
        self._add(self._stdin, select.POLLOUT)
        self._write()
        return None

    def _begin(self, pipes: list[tuple[int, int]]) -> None:
        streams = pipes[0][0], pipes[1][1], pipes[2][1]
        if not any(self._command.limits):
            self._pid = launch.begin(self._order, streams)
            return
        self._fault, fault = pipes[3]
        self._pid = os.fork()
        if not self._pid:
            launch.become(self._order, streams, fault)

    def _add(self, number: int, events: int) -> None:
        os.set_blocking(number, False)
        self._open.add(number)
        self.poll.register(number, events)

    def _close(self, number: int) -> None:
        if number in self._open:
            self._open.remove(number)
            self.poll.unregister(number)
            os.close(number)

    def attend(self, number: int) -> None:
        """Do what a descriptor is ready for."""
        if number == self._ear.number:
            self._ear.clear()
        elif number not in self._open:  # closed since it was found ready
            return
        elif number == self._stdin:
            self._write()
        else:
            self._read(number)

    def _write(self) -> None:
        try:
            while self._data:
                self._data = self._data[os.write(self._stdin, self._data) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it does not want to know
            pass
        self._close(self._stdin)

    def _read(self, number: int) -> bool:
        """Take a piece of what was written; False: there is none now."""
        try:
            data = os.read(number, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._close(number)
            return False
        if number == self._stdout:
            self._receive_output(data)
        elif number == self._stderr:
            self._tail.receive_data(data)
        else:
            self._told += data
        return True

    def _receive_output(self, data: bytes) -> None:
        self._output += data
        if len(self._output) > self._command.output_bytes:
            self._output.clear()
            self._is_flooded = True
            self._close(self._stdout)
            self.kill()

    def has_ended(self) -> bool:
        """Tell whether the command itself has ended, and what it has left has had its time, if it was asked to end.

        The command is not waited for yet; orphans of it are.
        """
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if found.si_pid == self._pid:
                return self._kill_at is None or self._is_killed or not self._has_left()
            os.waitpid(found.si_pid, 0)
        return False

    def _has_left(self) -> bool:
        others = [pid for pid in children(os.getpid()) if pid != self._pid]
        return any(os.waitpid(pid, os.WNOHANG)[0] == 0 for pid in others)

    def patience_ms(self) -> float | None:
        """Return how long to wait for something to happen."""
        tell_at = max(self._tell_at, time.monotonic() + _LOOK_S) if self._tail.has_told else None
        instants = [at for at in (self._kill_at, tell_at) if at is not None]
        return max(0.0, 1000 * (min(instants) - time.monotonic())) + 1 if instants else None

    def has_progress_due(self) -> bool:
        """Tell whether there is progress to tell now."""
        return self._tail.has_told and time.monotonic() >= self._tell_at

    def take_progress(self) -> list[bytes]:
        """Take what is not told yet; the last of it counts."""
        self._tell_at = time.monotonic() + TOLD_S
        return self._tail.take()

    def terminate(self) -> None:
        """Ask all that has come of the command to end, and kill it a while later."""
        if self._kill_at is None:
            signal_tree(os.getpid(), signal.SIGTERM)
            self._kill_at = time.monotonic() + TERM_S

    def look_at_time(self) -> None:
        """Kill what was asked to end and has had its time."""
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self.kill()

    def kill(self) -> None:
        """Kill all that has come of the command. `finish` does it again until nothing is left."""
        self._is_killed = True
        signal_tree(os.getpid(), signal.SIGKILL)
        self._kill_at = time.monotonic() + _LOOK_S

    def finish(self) -> Ended | Unstarted:
        """Kill what the command has left; return how it has ended."""
        # before it is waited for its number is nobody else's, nor is that of its group
        with suppress(OSError):
            os.killpg(self._pid, signal.SIGKILL)
        status = self._reap()
        self._drain()
        for number in list(self._open):
            self._close(number)
        if self._told:
            return launch.why_not(self._told)
        self._tail.end()
        code = -signal.SIGKILL if status is None else os.waitstatus_to_exitcode(status)
        return Ended(code, self._is_flooded, self._tail.is_cut, bytes(self._output), self._tail.data)

    def _reap(self) -> int | None:
        """Wait until there is no child, killing what is found; return the command's status, None if it cannot be ended."""
        status = None
        given_up_at = time.monotonic() + LEFT_S
        while True:
            try:
                pid, found = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return status
            if pid == self._pid:
                status = found
            if pid:
                continue
            if time.monotonic() >= given_up_at:
                self.is_clean = False
                return status
            signal_tree(os.getpid(), signal.SIGKILL)
            select.select([self._ear.number], [], [], _LOOK_S)
            self._ear.clear()

    def _drain(self) -> None:
        """Read what still stands in the pipes; who could not be ended may hold them open, and write."""
        for number in (self._fault, self._stderr, self._stdout):
            for _ in range(16):  # more than a pipe holds
                if number not in self._open or not self._read(number):
                    break


class _ChildRun(_Run):
    """A child process of the server's at work. It reads its data, and writes to what is passed to it."""

    def __init__(self, order: Order, ear: Ear, passed: Sequence[int]) -> None:
        super().__init__(order, ear)
        self._passed = passed
        self._is_asked = False

    def _begin(self, pipes: list[tuple[int, int]]) -> None:
        passed = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for number in self._passed]
        try:
            self._pid = launch.begin(self._order, (pipes[0][0], *passed))
        finally:
            for number in (*passed, *self._passed):  # its end must show at the other ends
                os.close(number)

    def terminate(self) -> None:
        """Ask it to end, and it alone: what it runs may have time. Asked again, kill all that has come of it."""
        if self._is_asked:
            self.kill()
        else:
            self._is_asked = True
            os.kill(self._pid, signal.SIGTERM)


def serve(channel: socket.socket, server: int | None, passed: Sequence[int] = ()) -> NoReturn:
    """Be a minder, to the end of this process."""
    code = 1
    try:
        code = Minder(channel, server, passed).serve()
    finally:
        os._exit(code)
