"""A file of jobs, inserted with many calls in flight, so that the same command can be repeated after an interruption.

The id of a line without one is `f`, 32 hexadecimal digits of BLAKE2b over (SHA-256 of the whole content, the run's name,
the line's number, the line), a dot and the line's number. The content is in it because two files that begin alike are
different jobs; so stdin is read to its end, into a temporary file, before the first insert.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

import msgspec
from aiofiles.threadpool import wrap
from aiofiles.threadpool.binary import AsyncBufferedIOBase

from kqs.cli.inserting import insert_all
from kqs.client import Address
from kqs.errors import ExitCode
from kqs.wire.jobs import read_fields

#: of the file, read at a time: a hop to a thread and back costs as much as some ten inserts
SLICE_BYTES = 1 << 20

_encode = msgspec.json.Encoder().encode


class JobLines:
    """The jobs of an open file, each with the id that it will always have. Made off the loop: the whole file is read for it."""

    call = "insert"

    def __init__(self, file: BufferedReader, defaults: dict[str, Any], run_name: str) -> None:
        self._defaults = defaults
        self._seed = hashlib.blake2b(hashlib.file_digest(file, "sha256").digest() + _encode(run_name), digest_size=16)
        self.size_bytes = file.tell()
        file.seek(0)
        self._reader: AsyncBufferedIOBase = wrap(file)
        self._count = 0

    async def read(self) -> list[tuple[int, bytes]]:
        """Return (number from 1, line) of the next lines that are not blank, about SLICE_BYTES of them; [] at the end."""
        while lines := await self._reader.readlines(SLICE_BYTES):
            numbered = enumerate(lines, self._count + 1)
            self._count += len(lines)
            if found := [(number, line) for number, line in numbered if not line.isspace()]:
                return found
        return []

    def job(self, number: int, line: bytes) -> bytes:
        """Return the job of a line as JSON, its values as they stand in the file.

        Raises: CallError: the line is no JSON object.
        """
        fields = read_fields(line)
        if bytes(fields.get("id", b"")) == b"null":
            del fields["id"]
        return _encode({**self._defaults, "id": self._id(number, line), **fields})

    def named(self, number: int) -> tuple[str, int]:
        """See JobSource."""
        return "line", number

    def _id(self, number: int, line: bytes) -> str:
        digest = self._seed.copy()
        digest.update(b"%d " % number + line.rstrip(b"\r\n"))
        return f"f{digest.hexdigest()}.{number}"


def insert_file(
    server: Address, path: str, defaults: dict[str, Any], run_name: str, *, progress: bool | None, as_lines: bool
) -> ExitCode:
    """Insert the jobs of `path` (`-`: stdin) and return the exit code.

    Raises: what stopped it, after saying how far it came.
    """
    with opened(path) as file:
        return insert_all(server, JobLines(file, defaults, run_name), progress=progress, as_lines=as_lines)


@contextmanager
def opened(path: str) -> Iterator[BufferedReader]:
    """Open a file of jobs, or with `-` a copy of stdin, which is read to its end first.

    Raises: OSError: it cannot be read.
    """
    if path != "-":
        with Path(path).open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.seek(0)
        yield cast("BufferedReader", copy)
