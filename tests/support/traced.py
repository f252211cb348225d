"""What a real process did to its files and said over its sockets, from strace's record of it, as changes of a disk."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

from tests.support.files import Op

CALLS = (
    "openat,close,write,writev,sendmsg,sendto,pwrite64,pwritev,pwritev2,fdatasync,fsync,sync_file_range,ftruncate,fallocate,"
    "rename,renameat,renameat2,unlink,unlinkat,link,linkat,mmap"
)
STRACE = ("strace", "-f", "-qq", "-xx", "-y", "-s", "10000000", "-e", "signal=none", "-e", f"trace={CALLS}")

_UNFINISHED = " <unfinished ...>"
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)")
_DESCRIPTOR = re.compile(r"(\d+)<([^>]*)>")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_NUMBER = re.compile(r", (\d+)")
#: what a later call may do to a file without being told apart here
_UNKNOWN = frozenset({"writev", "sendmsg", "sendto", "pwritev", "pwritev2", "link", "linkat"})


class Traced:
    """Yields what was done in one folder, in its order: `Op`s, of which a mark is what was written to a socket, in bytes.

    A write counts from its end, as does a flush; what is said, from its beginning, when the peer may hear it. Of a process that
    was killed amid a write the system has done that all the same.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._nodes = count(1)
        self._names: dict[str, int] = {}
        self._sizes: dict[int, int] = {}
        self._places: dict[str, int] = {}  # of descriptors that are written to without an offset

    def ops(self, lines: Iterable[str]) -> Iterator[Op]:
        """Yield the changes that these lines of strace's tell of."""
        begun: dict[str, str] = {}
        for line in lines:
            thread, _, text = line.rstrip("\n").partition(" ")
            text = text.lstrip()
            if text.endswith(_UNFINISHED):
                begun[thread] = text.removesuffix(_UNFINISHED)
                yield from self._said(text)
                continue
            is_resumed = _RESUMED.match(text)
            if is_resumed:
                text = begun.pop(thread) + text[is_resumed.end() :]
            else:
                yield from self._said(text)
            if (call := _CALL.match(text)) is not None and int(call[3]) >= 0:
                yield from self._done(call[1], call[2], int(call[3]))
        for text in begun.values():
            name, _, arguments = text.partition("(")
            if name in ("write", "pwrite64"):
                yield from self._done(name, arguments, len(_bytes(arguments)))

    def _said(self, text: str) -> Iterator[Op]:
        name, _, arguments = text.partition("(")
        if name == "write" and (to := _DESCRIPTOR.match(arguments)) is not None and _decoded(to[2]).startswith("socket:"):
            yield Op("mark", mark=_bytes(arguments))

    def _done(self, name: str, arguments: str, result: int) -> Iterator[Op]:
        paths: list[str] = []
        if name.startswith(("open", "rename", "unlink")):
            paths = [_bytes(f'"{text}"').decode() for text in _TEXT.findall(arguments)]
        if name == "openat":
            yield from self._opened(paths[0], arguments, result)
        elif name.startswith("rename") and self._is_ours(paths[0]):
            old, new = map(self._absolute, paths)
            node = self._names[new] = self._names.pop(old)
            yield Op("name", node, old=Path(old), new=Path(new))
        elif name.startswith("unlink") and self._is_ours(paths[0]):
            self._names.pop(gone := self._absolute(paths[0]), None)
            yield Op("name", old=Path(gone))
        elif (to := _DESCRIPTOR.match(arguments)) is not None:
            yield from self._changed(name, arguments, to[1], _decoded(to[2]), result)

    def _opened(self, path: str, arguments: str, descriptor: int) -> Iterator[Op]:
        self._places[str(descriptor)] = 0
        if not self._is_ours(path):
            return
        path = self._absolute(path)
        if "O_CREAT" in arguments and path not in self._names:
            node = self._names[path] = next(self._nodes)
            self._sizes[node] = 0
            yield Op("name", node, new=Path(path))
        if "O_TRUNC" in arguments:
            yield from self._sized(self._names[path], 0)

    def _changed(self, name: str, arguments: str, descriptor: str, path: str, result: int) -> Iterator[Op]:
        if name in ("fsync", "fdatasync") and path == self._folder:
            yield Op("flush_dir")
        if not self._is_ours(path) or name == "close":
            return
        assert name not in _UNKNOWN, f"{name}: it is not known how this changes a file"
        assert name != "mmap" or "MAP_SHARED" not in arguments or "PROT_WRITE" not in arguments
        node = self._names.get(path)
        if node is None:  # without a name, and so without a life after the power cut
            return
        numbers = [int(number) for number in _NUMBER.findall(arguments.rpartition('"')[2] or arguments)]
        match name:
            case "pwrite64":
                yield self._written(node, numbers[-1], _bytes(arguments)[:result])
            case "write":
                at = self._places.get(descriptor, 0)
                self._places[descriptor] = at + result
                yield self._written(node, at, _bytes(arguments)[:result])
            case "ftruncate":
                yield from self._sized(node, numbers[0])
            case "fallocate":
                if numbers[-2] + numbers[-1] > self._sizes[node]:
                    yield from self._sized(node, numbers[-2] + numbers[-1])
            case "fsync" | "fdatasync":
                yield Op("flush", node)

    def _written(self, node: int, at: int, data: bytes) -> Op:
        self._sizes[node] = max(self._sizes[node], at + len(data))
        return Op("write", node, at, data)

    def _sized(self, node: int, size: int) -> Iterator[Op]:
        self._sizes[node] = size
        yield Op("size", node, size)

    def _absolute(self, path: str) -> str:
        return path if path.startswith("/") else f"{Path(self._folder).parent}/{path}"

    def _is_ours(self, path: str) -> bool:
        return self._absolute(path).startswith(self._folder + "/")


def _decoded(text: str) -> str:
    return bytes.fromhex(text.replace("\\x", "")).decode() if text.startswith("\\x") else text


def _bytes(arguments: str) -> bytes:
    found = _TEXT.search(arguments)
    return b"" if found is None else bytes.fromhex(found[1].replace("\\x", ""))
