"""The listening sockets: where they are bound, that they are safe to bind, and that none is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import ipaddress
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from kqs.config import ServerSection
from kqs.errors import ExitCode, StartupError
from kqs.log import get_logger
from kqs.process.threads import addresses_of
from kqs.reasons import reason_of
from kqs.supervisor import Supervisor, when_done
from kqs.trouble import Trouble

log = get_logger("kqs.server")

#: Connections the kernel holds until they are accepted; a thousand clients may start at once.
BACKLOG = 1024
#: Connections accepted in one turn of the loop, and how long to wait when none can be, for want of open files or memory, in s.
ACCEPTS_AT_ONCE = 64
ACCEPT_PAUSE_S = 0.1
#: What the kernel may hold of each direction of a connection, of which it takes up to twice as much. Left to itself it takes
#: megabytes for a peer that does not read, or is not read, and a few hundred such use up what it has for all TCP.
KERNEL_BUFFER_BYTES = 256 * 1024
#: How often another port is tried when port 0 gave one that the other address family has in use.
_PORT_ATTEMPTS = 20
_NO_SUCH_FAMILY = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


class Listener:
    """Binds what `settings` name, and hands each connection to whom `start` is given.

    Binding comes first, so that a busy port is known before anything else is touched; who connects meanwhile waits.
    `localhost` is 127.0.0.1 and ::1, whichever there are, on one port. The UNIX socket is bound by `bind_socket`, when no
    other server can be starting on the same journal: of two that find a stale one, the later would take it from the earlier.

    Connections are accepted here, since uvloop takes one in each turn of the loop: among a thousand who knock, everybody would
    wait for as many turns.
    """

    def __init__(self, settings: ServerSection, supervisor: Supervisor) -> None:
        self._settings = settings
        self._supervisor = supervisor
        self._sockets: list[socket.socket] = []
        self._accepting: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._make_connection: Callable[[], asyncio.BaseProtocol] = asyncio.Protocol
        self._room: Callable[[], int] = lambda: ACCEPTS_AT_ONCE
        self._trouble = Trouble(log, "connections cannot be accepted, trying again and again", "connections are accepted again")
        self._socket_inode: int | None = None
        self.addresses: list[tuple[str, int]] = []

    async def bind(self) -> None:
        """Bind the TCP port, unless that was done before.

        Raises: StartupError: 69 a port is in use, 73 a socket cannot be made, 78 a host is unknown or not allowed, or there
            is nothing to listen on. Nothing is left bound then.
        """
        if not self._settings.host:
            if not self._settings.socket:
                raise StartupError("[server] host and socket are both empty: there is nothing to listen on", ExitCode.CONFIG)
        elif not self._sockets:
            self._sockets += await self._bind_tcp()
            self.addresses = [bound.getsockname()[:2] for bound in self._sockets]

    def bind_socket(self) -> None:
        """Bind the UNIX socket, if there is to be one and it was not done before.

        Raises: StartupError: 69 it is in use, 73 it cannot be made, 78 its group is unknown. Nothing is left bound then.
        """
        if self._settings.socket and self._socket_inode is None:
            try:
                self._sockets.append(self._bind_unix(Path(self._settings.socket)))
            except BaseException:
                self.close()
                raise

    async def start(self, make_connection: Callable[[], asyncio.BaseProtocol], room: Callable[[], int] | None = None) -> None:
        """Accept connections, each for a protocol that `make_connection` returns. Raises: StartupError: see the binding.

        room: how many more may be open now; those beyond wait in the kernel until one is closed, which it has to be soon.
        """
        await self.bind()
        self.bind_socket()
        self._make_connection = make_connection
        if room is not None:
            self._room = room
        for bound in self._sockets:
            self._resume(bound)

    def close(self) -> None:
        """Stop listening, and take the UNIX socket's name away if it is still ours. Idempotent."""
        for bound in self._accepting:
            asyncio.get_running_loop().remove_reader(bound)
        for bound in self._sockets:
            bound.close()
        self._accepting.clear()
        self._sockets.clear()
        if self._socket_inode is not None:
            path = Path(self._settings.socket)
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_ino == self._socket_inode:
                    path.unlink()
            self._socket_inode = None

    def _resume(self, bound: socket.socket) -> None:
        if bound in self._sockets:
            bound.setblocking(False)
            self._accepting.append(bound)
            asyncio.get_running_loop().add_reader(bound, self._supervisor.guard, "listener", self._accept, bound)

    def _accept(self, bound: socket.socket) -> None:
        """Accept who knocks, but not all at once: each takes an open file, also if it is turned away in the turn after."""
        for _ in range(min(ACCEPTS_AT_ONCE, self._room() - len(self._tasks))):
            try:
                accepted, _ = bound.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue
            except OSError as error:
                self._accepting.remove(bound)
                asyncio.get_running_loop().remove_reader(bound)
                self._supervisor.call_later(ACCEPT_PAUSE_S, "listener", self._resume, bound)
                self._trouble.met(reason=reason_of(error))
                return
            self._trouble.over()
            accepted.setblocking(False)
            task = self._supervisor.spawn(self._connect(accepted), "accept", when_done)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._make_connection, accepted)
        except OSError:
            accepted.close()  # the peer is gone already

    async def _bind_tcp(self) -> list[socket.socket]:
        hosts = await self._hosts()
        for attempt in range(_PORT_ATTEMPTS):
            try:
                return _bind_all(hosts, self._settings.port)
            except OSError as error:
                if self._settings.port == 0 and error.errno == errno.EADDRINUSE and attempt + 1 < _PORT_ATTEMPTS:
                    continue
                raise _bind_error(error, f"port {self._settings.port} of {self._settings.host}") from None
        raise AssertionError("unreachable")

    async def _hosts(self) -> list[str]:
        host = self._settings.host
        if host == "localhost":
            return ["127.0.0.1", "::1"]
        try:
            hosts = await addresses_of(host or None)
        except (OSError, UnicodeError):
            raise StartupError(f"[server] host {host!r} is unknown", ExitCode.CONFIG) from None
        public = [found for found in hosts if not ipaddress.ip_address(found.partition("%")[0]).is_loopback]
        if public and not self._settings.allow_public:
            raise StartupError(
                f"[server] host {host!r} ({public[0]}) is open to other machines: set allow_public = true if you mean it",
                ExitCode.CONFIG,
            )
        return hosts

    def _bind_unix(self, path: Path) -> socket.socket:
        group = _group_number(self._settings.socket_group)
        _remove_stale(path)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        previous = os.umask(0o177)  # 0600 from the first moment: a chmod after the bind would leave a gap
        try:
            bound.bind(os.fspath(path))
            self._socket_inode = path.lstat().st_ino
            bound.listen(BACKLOG)  # one that nobody listens on looks stale to another server
            if group is not None:
                os.chown(path, -1, group)
            path.chmod(int(self._settings.socket_mode, 8))
        except OSError as error:
            bound.close()
            raise _bind_error(error, f"socket {path}") from None
        finally:
            os.umask(previous)
        return bound


def _group_number(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid if name else None
    except KeyError:
        raise StartupError(f"[server] socket_group {name!r} is unknown", ExitCode.CONFIG) from None


def _bind_all(hosts: list[str], port: int) -> list[socket.socket]:
    """Bind every host that this machine has to one port. Raises OSError; nothing stays bound then."""
    sockets: list[socket.socket] = []
    try:
        for host in hosts:
            try:
                bound = _bind(host, port)
            except OSError as error:
                if error.errno in _NO_SUCH_FAMILY and (sockets or host != hosts[-1]):
                    continue
                raise
            sockets.append(bound)
            port = bound.getsockname()[1]
    except BaseException:
        for bound in sockets:
            bound.close()
        raise
    return sockets


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):  # connections inherit it
            bound.setsockopt(socket.SOL_SOCKET, buffer, KERNEL_BUFFER_BYTES)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
        bound.listen(BACKLOG)  # two sockets may be bound to one port with SO_REUSEADDR; only one may listen
    except BaseException:
        bound.close()
        raise
    return bound


def _remove_stale(path: Path) -> None:
    """Unlink a socket nobody answers on.

    Raises: StartupError: somebody answers, or it is no socket.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _bind_error(error, f"socket {path}") from None
    if not stat.S_ISSOCK(mode):
        raise StartupError(f"[server] socket {path} exists and is no socket", ExitCode.CANNOT_CREATE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise _bind_error(error, f"socket {path}") from None
    raise StartupError(f"[server] socket {path} is in use by another server", ExitCode.UNAVAILABLE)


def _bind_error(error: OSError, what: str) -> StartupError:
    if error.errno == errno.EADDRINUSE:
        return StartupError(f"[server] {what} is in use by another server", ExitCode.UNAVAILABLE)
    return StartupError(f"[server] {what} cannot be bound: {reason_of(error)}", ExitCode.CANNOT_CREATE)
