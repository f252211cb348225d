"""Paths that stay what they are when a handler changes the working directory."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from kqs.config.sections import CommandSection, Config
from kqs.errors import ExitCode, StartupError
from kqs.words.logins import without_login

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|file:", re.IGNORECASE)

#: no socket can be bound to a longer path; a relative one may do, as long as nothing changes the directory
_SOCKET_PATH_BYTES = 107


def anchored(config: Config, folder: Path) -> Config:
    """Return `config` with every path taken from `folder`, which is absolute.

    Raises: StartupError: exit code 78: the store's path is a URI, which no folder is a start of.
    """
    server, journal, store = config.server, config.journal, config.store
    socket = str(folder / server.socket)
    if server.socket and len(socket.encode(errors="surrogateescape")) <= _SOCKET_PATH_BYTES:
        server = msgspec.structs.replace(server, socket=socket)
    journal = msgspec.structs.replace(journal, dir=folder / journal.dir)
    if store.kind == "sqlite" and store.uri:
        if _URI.match(store.uri):
            shown = without_login(store.uri)
            raise StartupError(f"store.uri: {shown!r}: the kind sqlite expects the path of a file, not a URI", ExitCode.CONFIG)
        store = msgspec.structs.replace(store, uri=str(folder / store.uri))
    commands = {type_: _anchored_command(section, folder) for type_, section in config.commands.items()}
    changes = {"server": server, "journal": journal, "store": store, "commands": commands, "folder": folder / config.folder}
    return msgspec.structs.replace(config, **changes)


def _anchored_command(section: CommandSection, folder: Path) -> CommandSection:
    """Return a command whose program, if it is a path and no name in PATH, is an absolute one."""
    program, *arguments = section.command
    if "/" not in program:
        return section
    return msgspec.structs.replace(section, command=[os.path.normpath(folder / program), *arguments])
