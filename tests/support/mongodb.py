"""A server of MongoDB's protocol: $KQS_TEST_MONGODB_URI, else a `mongod` on the PATH, else the Java server that make built."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from pymongo import MongoClient

from kqs.store.mongo import MongoStore
from kqs.store.mongo.bulk import ORPHAN_AGE_S
from tests.support.mortal import mortal
from tests.support.require import missing
from tests.support.serving import ROOT, free_port

READY_WITHIN_S = 60
STOPPED_WITHIN_S = 30

_BUILT = ROOT / ".cache" / "servers"


class MongoServer:
    """A server on a port of its own, with its file in `folder`; started again, it is where it was."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and return when it answers: the first answer of a Java server that has just begun takes a second or two."""
        with (self._folder / "server.log").open("ab") as log:
            command = _command(self._folder, self.port)
            self._process = subprocess.Popen(mortal(command), stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + READY_WITHIN_S
        while not _listens(self.port):
            assert self._process.poll() is None, (self._folder / "server.log").read_text()
            assert time.monotonic() < deadline, "the MongoDB server does not listen"
            time.sleep(0.05)
        with MongoClient[dict[str, Any]](self.uri, serverSelectionTimeoutMS=READY_WITHIN_S * 1000) as client:
            client.admin.command("ping")

    def stop(self) -> None:
        """End it with SIGTERM: the Java server loses its last second otherwise."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(STOPPED_WITHIN_S)


async def sweep_bulk(store: MongoStore, now: float) -> int:
    """Look for long data that no job names, as the store does now and then; return how many went. now: monotonic, in s."""
    there = store._there
    return await there.lanes.look(partial(there.session.bulk.sweep, now))


async def sweep_all_bulk(store: MongoStore, now: float) -> None:
    """Look, and again so long after it that all goes which no job names all the while."""
    await sweep_bulk(store, now)
    await sweep_bulk(store, now + ORPHAN_AGE_S)


def is_there() -> bool:
    """Tell whether this machine has a server to offer."""
    is_built = shutil.which("java") is not None and (_BUILT / "stamp").exists()
    return bool(os.environ.get("KQS_TEST_MONGODB_URI") or shutil.which("mongod")) or is_built


def _command(folder: Path, port: int) -> Sequence[str]:
    if not is_there():
        missing("mongodb")
    if (mongod := shutil.which("mongod")) is not None:
        return [mongod, "--dbpath", str(folder), "--port", str(port), "--bind_ip", "127.0.0.1"]
    java = shutil.which("java") or missing("mongodb")
    classes = f"{_BUILT}/classes:{_BUILT}/lib/*"
    options = ["-Xmx1g", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
    return [java, *options, "-cp", classes, "MongoServerProcess", str(folder / "store.h2"), str(port)]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def mongodb(folder: Path) -> Iterator[str]:
    """Yield the URI of a running server, without a database in it."""
    given = os.environ.get("KQS_TEST_MONGODB_URI")
    if given:
        yield given
        return
    server = MongoServer(folder)
    try:
        server.start()
        yield server.uri
    finally:
        server.stop()


def client_of(uri: str) -> MongoClient[dict[str, Any]]:
    """Return a client of a test's own, as a context manager."""
    return MongoClient(uri)


def a_database(uri: str) -> str:
    """Return the URI of a new database on a server, whose URI may have options."""
    address, _, options = uri.partition("?")
    scheme, _, hosts = address.rstrip("/").partition("://")
    return f"{scheme}://{hosts.partition('/')[0]}/kqs-test-{uuid4().hex[:12]}" + (f"?{options}" if options else "")
