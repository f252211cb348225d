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

#: Connections the kernel holds until they are accepted; a thousand clients may start at once.
BACKLOG = 1024
#: How often another port is tried when port 0 gave one that the other address family has in use.
_PORT_ATTEMPTS = 20
_NO_SUCH_FAMILY = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


class Listener:
    """Binds what `settings` name, and hands each connection to whom `start` is given.

    Binding comes first, so that a busy port is known before anything else is touched; who connects meanwhile waits.
    `localhost` is 127.0.0.1 and ::1, whichever there are, on one port. The UNIX socket is bound by `bind_socket`, when no
    other server can be starting on the same journal: of two that find a stale one, the later would take it from the earlier.

    backlog: connections that the kernel holds until they are accepted.
    """

    def __init__(self, settings: ServerSection, backlog: int = BACKLOG) -> None:
        self._settings = settings
        self._backlog = backlog
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.AbstractServer] = []
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

    async def start(self, make_connection: Callable[[], asyncio.BaseProtocol]) -> None:
        """Accept connections, each for a protocol that `make_connection` returns. Raises: StartupError: see the binding."""
        await self.bind()
        self.bind_socket()
        try:
            while self._sockets:
                self._servers.append(await _serve(self._sockets[0], make_connection, self._backlog))
                self._sockets.pop(0)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop listening, and take the UNIX socket's name away if it is still ours. Idempotent."""
        for server in self._servers:
            server.close()
        for bound in self._sockets:
            bound.close()
        self._servers.clear()
        self._sockets.clear()
        if self._socket_inode is not None:
            path = Path(self._settings.socket)
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_ino == self._socket_inode:
                    path.unlink()
            self._socket_inode = None

    async def _bind_tcp(self) -> list[socket.socket]:
        hosts = await self._hosts()
        for attempt in range(_PORT_ATTEMPTS):
            try:
                return _bind_all(hosts, self._settings.port, self._backlog)
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
            found = await asyncio.get_running_loop().getaddrinfo(
                host or None, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except (OSError, UnicodeError):
            raise StartupError(f"[server] host {host!r} is unknown", ExitCode.CONFIG) from None
        hosts = list(dict.fromkeys(str(address[0]) for *_, address in found))
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
            bound.listen(self._backlog)  # one that nobody listens on looks stale to another server
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


async def _serve(
    bound: socket.socket, make_connection: Callable[[], asyncio.BaseProtocol], backlog: int
) -> asyncio.AbstractServer:
    loop = asyncio.get_running_loop()
    if bound.family == socket.AF_UNIX:
        return await loop.create_unix_server(make_connection, sock=bound, backlog=backlog)
    return await loop.create_server(make_connection, sock=bound, backlog=backlog)


def _bind_all(hosts: list[str], port: int, backlog: int) -> list[socket.socket]:
    """Bind every host that this machine has to one port. Raises OSError; nothing stays bound then."""
    sockets: list[socket.socket] = []
    try:
        for host in hosts:
            try:
                bound = _bind(host, port, backlog)
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


def _bind(host: str, port: int, backlog: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
        bound.listen(backlog)  # two sockets may be bound to one port with SO_REUSEADDR; only one may listen
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
    reason = (error.strerror or str(error)).lower()
    return StartupError(f"[server] {what} cannot be bound: {reason}", ExitCode.CANNOT_CREATE)
