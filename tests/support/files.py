"""Disks for tests of the journal: in memory, losing power, and failing on command. All satisfy kqs.journal.files.Files."""

from __future__ import annotations

import errno
import itertools
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from kqs.errors import JournalLockedError

SECTOR = 512


class Op(NamedTuple):
    """One change. what: write size flush name flush_dir mark."""

    what: str
    node: int = -1
    offset: int = 0
    data: bytes = b""
    old: Path | None = None
    new: Path | None = None
    mark: Any = None


class MemoryFiles:
    """A file system in a dict. `free` is what free_bytes answers."""

    def __init__(self, names: dict[Path, bytes] | None = None) -> None:
        self.nodes: dict[int, bytearray] = {}
        self.names: dict[Path, int] = {}
        self.handles: dict[int, int] = {}
        self.free = 1 << 40
        self.locked: set[int] = set()
        self.folders: dict[Path, int] = {}
        self._ids = itertools.count(10)
        self._mutex = threading.Lock()
        for path, data in (names or {}).items():
            self.put(path, data)

    def put(self, path: Path, data: bytes) -> None:
        node = next(self._ids)
        self.nodes[node] = bytearray(data)
        self.names[path] = node

    def data(self, path: Path) -> bytes:
        return bytes(self.nodes[self.names[path]])

    def snapshot(self) -> dict[Path, bytes]:
        return {path: bytes(self.nodes[node]) for path, node in self.names.items()}

    def note(self, op: Op) -> None:
        """Told of every change, under the mutex."""

    def make_dir(self, path: Path) -> None:
        self.folders.setdefault(path, next(self._ids))

    def list_others(self, path: Path) -> list[str]:
        return []

    def list(self, path: Path) -> list[str]:
        return sorted(name.name for name in self.names if name.parent == path)

    def create(self, path: Path) -> int:
        with self._mutex:
            node = next(self._ids)
            self.nodes[node] = bytearray()
            self.names[path] = node
            self.note(Op("name", node, new=path))
            return self._handle(node)

    def open(self, path: Path, *, writable: bool = False) -> int:
        with self._mutex:
            if path not in self.names:
                raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
            return self._handle(self.names[path])

    def size(self, handle: int) -> int:
        return len(self._node(handle))

    def write(self, handle: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        with self._mutex:
            apply(self.nodes, op := Op("write", self.handles[handle], offset, bytes(data)))
            self.note(op)
            return len(data)

    def read(self, handle: int, count: int, offset: int) -> bytes:
        return bytes(self._node(handle)[offset : offset + count])

    def begin_flush(self, handle: int, count: int, offset: int) -> None:
        pass

    def flush(self, handle: int) -> None:
        with self._mutex:
            self.note(Op("flush", self.handles[handle]))

    def allocate(self, handle: int, count: int) -> None:
        if count > len(self._node(handle)):
            self.truncate(handle, count)

    def truncate(self, handle: int, count: int) -> None:
        with self._mutex:
            apply(self.nodes, op := Op("size", self.handles[handle], count))
            self.note(op)

    def close(self, handle: int) -> None:
        with self._mutex:
            self.locked.discard(self.handles.pop(handle))

    def unlock(self, handle: int) -> None:
        self.close(handle)

    def rename(self, old: Path, new: Path) -> None:
        with self._mutex:
            node = self.names[new] = self.names.pop(old)
            self.note(Op("name", node, old=old, new=new))

    def unlink(self, path: Path) -> None:
        with self._mutex:
            if path not in self.names:
                raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
            self.note(Op("name", self.names.pop(path), old=path))

    def flush_dir(self, path: Path) -> None:
        with self._mutex:
            self.note(Op("flush_dir"))

    def free_bytes(self, path: Path) -> int:
        return self.free

    def lock(self, path: Path, text: str) -> int:
        if path not in self.names:
            self.put(path, b"")
        node = self._locked(self.names[path])
        self.nodes[node][:] = text.encode()
        return self._handle(node)

    def lock_dir(self, path: Path) -> int:
        return self._handle(self._locked(self.folders.setdefault(path, next(self._ids))))

    def _locked(self, node: int) -> int:
        if node in self.locked:
            raise JournalLockedError("locked")
        self.locked.add(node)
        return node

    def replace_dir(self, path: Path) -> None:
        """Let an empty directory have the name."""
        for name in [name for name in self.names if name.parent == path]:
            del self.names[name]
        self.folders[path] = next(self._ids)

    def identity(self, handle: int) -> tuple[int, int]:
        return 0, self.handles[handle]

    def identity_of(self, path: Path) -> tuple[int, int] | None:
        node = self.folders.get(path, self.names.get(path))
        return None if node is None else (0, node)

    def name_of(self, handle: int) -> str | None:
        with self._mutex:
            return next((str(path) for path, node in self.names.items() if node == self.handles[handle]), "gone")

    def _handle(self, node: int) -> int:
        handle = next(self._ids)
        self.handles[handle] = node
        return handle

    def _node(self, handle: int) -> bytearray:
        return self.nodes[self.handles[handle]]


def apply(nodes: dict[int, bytearray], op: Op) -> None:
    """Do a change of a file's bytes or size."""
    data = nodes.setdefault(op.node, bytearray())
    end = op.offset + len(op.data) if op.what == "write" else op.offset
    if op.what == "size":
        del data[end:]
    if len(data) < end:
        data.extend(bytes(end - len(data)))
    data[op.offset : op.offset + len(op.data)] = op.data


class FullFiles(MemoryFiles):
    """While `is_full`, refuses all that needs a block which is still free."""

    def __init__(self, names: dict[Path, bytes] | None = None) -> None:
        super().__init__(names)
        self.is_full = False

    def create(self, path: Path) -> int:
        self._take(1)
        return super().create(path)

    def write(self, handle: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        self._take(offset + len(data) - self.size(handle))
        return super().write(handle, data, offset)

    def allocate(self, handle: int, count: int) -> None:
        self._take(count - self.size(handle))
        super().allocate(handle, count)

    def _take(self, count: int) -> None:
        if self.is_full and count > 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class PowerLossFiles(MemoryFiles):
    """Records every change. `Disk(ops[:n])` then rebuilds what the disk may hold if the power fails after n of them."""

    def __init__(self, names: dict[Path, bytes] | None = None) -> None:
        self.ops: list[Op] = []
        super().__init__(names)

    def put(self, path: Path, data: bytes) -> None:
        super().put(path, data)
        node = self.names[path]
        self.ops += [Op("write", node, 0, data), Op("flush", node), Op("name", node, new=path), Op("flush_dir")]

    def note(self, op: Op) -> None:
        self.ops.append(op)

    def mark(self, what: Any) -> None:
        """Put a word of the test among the changes."""
        with self._mutex:
            self.ops.append(Op("mark", mark=what))


class Disk:
    """What is surely on the disk after some changes, and which of them are still in the air."""

    def __init__(self) -> None:
        self.nodes: dict[int, bytearray] = {}
        self.names: dict[Path, int] = {}
        self.loose_bytes: list[Op] = []
        self.loose_names: list[Op] = []

    def take(self, op: Op) -> None:
        if op.what in ("write", "size"):
            self.loose_bytes.append(op)
        elif op.what == "flush":
            for done in [loose for loose in self.loose_bytes if loose.node == op.node]:
                apply(self.nodes, done)
            self.loose_bytes = [loose for loose in self.loose_bytes if loose.node != op.node]
        elif op.what == "name":
            self.loose_names.append(op)
        elif op.what == "flush_dir":
            for name in self.loose_names:
                bind(self.names, name)
            self.loose_names = []

    def states(self, rng: random.Random, random_count: int) -> Iterator[dict[Path, bytes]]:
        """Yield legal contents: every choice of names with no and with all loose bytes, then random tears and orders."""
        choices = list(itertools.product((False, True), repeat=min(len(self.loose_names), 4)))
        for choice in choices:
            picked = list(itertools.compress(self.loose_names, itertools.chain(choice, itertools.repeat(True))))
            yield self._build(picked, [])
            if self.loose_bytes:
                yield self._build(picked, self.loose_bytes)
        for _ in range(random_count if self.loose_bytes else 0):
            picked = [op for op in self.loose_names if rng.random() < 0.7]
            yield self._build(picked, [piece for op in self.loose_bytes for piece in tear(op, rng)])

    def _build(self, names: list[Op], changes: list[Op]) -> dict[Path, bytes]:
        nodes = {node: bytearray(data) for node, data in self.nodes.items()}
        bound = dict(self.names)
        for op in changes:
            apply(nodes, op)
        for op in names:
            bind(bound, op)
        return {path: bytes(nodes.get(node, b"")) for path, node in bound.items()}


def bind(names: dict[Path, int], op: Op) -> None:
    """Do a change of a directory."""
    if op.old is not None:
        names.pop(op.old, None)
    if op.new is not None:
        names[op.new] = op.node


def tear(op: Op, rng: random.Random) -> list[Op]:
    """Return what may have reached the disk of one unflushed change: nothing, a prefix, any sectors, all."""
    fate = rng.randrange(4)
    if fate == 0:
        return []
    if fate == 3 or op.what == "size":
        return [op]
    if fate == 1:
        return [op._replace(data=op.data[: rng.randrange(len(op.data) + 1)])]
    pieces = []
    at = op.offset
    while at < op.offset + len(op.data):
        end = min((at // SECTOR + 1) * SECTOR, op.offset + len(op.data))
        pieces.append(op._replace(offset=at, data=op.data[at - op.offset : end - op.offset]))
        at = end
    return [piece for piece in pieces if rng.random() < 0.5]


def failing(wanted: str, error: OSError) -> Callable[[int, str], OSError | None]:
    """Return a plan by which every call of this name raises `error`."""
    return lambda _index, name: error if name == wanted else None


class FaultyFiles:
    """Passes every call to `inner`, unless `plan(call number, name)` gives an OSError to raise or "short" for a short write."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.calls: list[str] = []
        self.plan: Callable[[int, str], OSError | str | None] = lambda _index, _name: None

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.inner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            index = len(self.calls)
            self.calls.append(name)
            fault = self.plan(index, name)
            if isinstance(fault, OSError):
                if name == "close":
                    real(*args, **kwargs)
                raise fault
            if fault == "short" and name == "write":
                handle, data, offset = args
                return real(handle, bytes(data)[: max(1, len(data) // 2)], offset)
            return real(*args, **kwargs)

        return call
