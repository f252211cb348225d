"""The process of which minders are forked: small, with one thread, and with nothing of the server's but a socket to it.

The server sends one end of a channel for each minder it wants, and with it what a child process is to find open, if the minder
is to have one in place of commands. What a minder leaves that did not end in good order, since a
command has killed it, becomes the keeper's, and is killed.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import time
from array import array
from contextlib import suppress

from kqs.minding import launch, minder
from kqs.minding.frames import CONTROL, FrameReader, Kind, Unstarted, encode_report
from kqs.minding.minder import Ear
from kqs.minding.tree import children, signal_tree

#: how long to try to kill what a minder has left, and how long minders have to end when the server is gone, in s
LEFT_S = 2.0
END_S = 3.0
#: more than any message of the server is long
_MESSAGE_BYTES = 64
#: between two looks for what is left, in s
_LOOK_S = 0.01
#: most descriptors that come with one message: a channel, and what is passed on to a child process
_MOST_DESCRIPTORS = 1 + minder.PASSED


class Keeper:
    """See the module docstring."""

    def __init__(self, control: socket.socket, server: int | None) -> None:
        """Args: server: a pidfd of the server's process, where there are such."""
        self._control = control
        self._server = server
        self._ear = Ear()
        self._minders: set[int] = set()
        self._sweep_until = 0.0

    def keep(self) -> None:
        """Fork minders until the server is gone or wants no more; then wait for them to end, as they do by themselves."""
        poll = select.poll()
        for number in (self._control.fileno(), self._ear.number, self._server):
            if number is not None:
                poll.register(number, select.POLLIN)
        while True:
            ready = {number for number, _ in poll.poll(self._look_ms())}
            if self._server in ready or (self._control.fileno() in ready and not self._take()):
                break
            self._attend()
        self._control.close()
        self._wait()

    def _look_ms(self) -> float | None:
        return 1000 * _LOOK_S if time.monotonic() < self._sweep_until else None

    def _attend(self) -> None:
        """Wait for children that have ended, and kill orphans."""
        self._ear.clear()
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                if pid in self._minders:
                    self._minders.remove(pid)
                    if status:
                        self._sweep_until = time.monotonic() + LEFT_S
        if time.monotonic() < self._sweep_until and not self._sweep():
            self._sweep_until = 0.0

    def _sweep(self) -> bool:
        """Kill children that are no minders, and what has come of them; return whether there were any."""
        orphans = [pid for pid in children(os.getpid()) if pid not in self._minders]
        for orphan in orphans:
            signal_tree(orphan, signal.SIGKILL)
            with suppress(OSError):
                os.kill(orphan, signal.SIGKILL)
        return bool(orphans)

    def _wait(self) -> None:
        """Wait for minders to end, also those that a command has stopped; kill the ones that do not."""
        for number in (signal.SIGCONT, signal.SIGKILL):
            for pid in self._minders:
                os.kill(pid, number)
            given_up_at = time.monotonic() + END_S
            while (self._minders or time.monotonic() < self._sweep_until) and time.monotonic() < given_up_at:
                select.select([self._ear.number], [], [], _LOOK_S)
                self._attend()

    def _take(self) -> bool:
        """Do what the server says; False: it wants no more minders."""
        try:
            told, ancillary, _, _ = self._control.recvmsg(
                _MESSAGE_BYTES, socket.CMSG_SPACE(4 * _MOST_DESCRIPTORS), socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            return False
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                number, *passed = array("i", data)
                with socket.socket(fileno=number) as channel:
                    self._fork(channel, passed)
                for each in passed:
                    os.close(each)
        for kind, body in FrameReader().receive_data(told):
            if kind == Kind.KILL and int(body) in self._minders:
                os.kill(int(body), signal.SIGKILL)
        return bool(told)

    def _fork(self, channel: socket.socket, passed: list[int]) -> None:
        """Fork a minder; if it cannot be, the server is told why."""
        try:
            pid = os.fork()
        except OSError as error:
            with suppress(OSError):
                channel.sendall(encode_report(Unstarted(error.errno or 0, "minder")))
            return
        if pid:
            self._minders.add(pid)
            return
        self._control.close()
        os.close(self._ear.number)
        minder.serve(channel, self._server, passed)


def main(server: int) -> None:
    """Keep minders for the process `server`, which has started this one."""
    for number in launch.IGNORED:
        signal.signal(number, signal.SIG_IGN)  # it ends when the server does, not at a Ctrl-C that is meant for that
    control = socket.socket(fileno=CONTROL)
    control.set_inheritable(False)
    os.closerange(CONTROL + 1, os.sysconf("SC_OPEN_MAX"))
    launch.set_name(b"kqs-keeper")
    launch.adopt_orphans()
    launch.lower_open_files()
    pidfd = None
    with suppress(OSError):
        pidfd = os.pidfd_open(server)
    if os.getppid() != server:  # it was gone before it could be watched
        return
    gc.disable()  # a look at objects would copy their pages into each minder
    gc.freeze()
    Keeper(control, pidfd).keep()
