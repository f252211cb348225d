"""A file of jobs, inserted with many calls in flight, so that the same command can be repeated after an interruption.

The id of a line without one is `f`, 32 hexadecimal digits of BLAKE2b over (SHA-256 of the whole content, the run's name,
the line's number, the line), a dot and the line's number. The content is in it because two files that begin alike are
different jobs; so stdin is read to its end, into a temporary file, before the first insert.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

import click
import msgspec
from aiofiles.threadpool import wrap
from aiofiles.threadpool.binary import AsyncBufferedIOBase

from kqs.cli.connection import with_client
from kqs.cli.exits import say
from kqs.cli.output import print_line
from kqs.cli.progress import Progress, shown_progress
from kqs.client import Address, Client
from kqs.errors import CallError, ExitCode

IN_FLIGHT = 1000
#: of the file, read at a time: a hop to a thread and back costs as much as some ten inserts
SLICE_BYTES = 1 << 20
#: refused for what the server is in and not for what the job is: the rest would be refused too
PASSING = frozenset({"busy", "draining", "no_space", "journal_failed"})

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class JobLines:
    """The jobs of an open file, each with the id that it will always have. Made off the loop: the whole file is read for it."""

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

        Raises: msgspec.DecodeError: the line is no JSON object.
        """
        fields = _decode_fields(line)
        return _encode({**self._defaults, "id": self._id(number, line), **fields})

    def _id(self, number: int, line: bytes) -> str:
        digest = self._seed.copy()
        digest.update(b"%d " % number + line.rstrip(b"\r\n"))
        return f"f{digest.hexdigest()}.{number}"


class FileInserter:
    """Inserts the lines and counts what came of them. stopped: why the rest was not tried, if so."""

    def __init__(self, client: Client, lines: JobLines, progress: Progress, as_lines: bool) -> None:
        self._client = client
        self._lines = lines
        self._progress = progress
        self._as_lines = as_lines
        self._open: set[asyncio.Future[msgspec.Raw]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.inserted = 0
        self.refused = 0
        self.stopped: Exception | None = None

    async def run(self) -> None:
        """Insert all lines, or those before trouble that would meet the others as well, which is raised in the end."""
        while not self.stopped and (lines := await self._lines.read()):
            for number, line in lines:
                if self.stopped:
                    break
                await self._start(number, line)
        await self._idle.wait()
        if self.stopped:
            raise self.stopped

    async def _start(self, number: int, line: bytes) -> None:
        try:
            job = self._lines.job(number, line)
            answer = await self._client.start("insert", job, repeatable=True)
        except (msgspec.DecodeError, CallError) as error:
            self._refuse(number, error)
        else:
            self._await(answer, number, len(line))

    def _await(self, answer: asyncio.Future[msgspec.Raw], number: int, size_bytes: int) -> None:
        self._open.add(answer)
        self._idle.clear()

        def done(answer: asyncio.Future[msgspec.Raw]) -> None:
            self._open.discard(answer)
            self._judge(answer, number)
            self._progress.advance(size_bytes)
            if not self._open:
                self._idle.set()

        answer.add_done_callback(done)

    def _judge(self, answer: asyncio.Future[msgspec.Raw], number: int) -> None:
        error = answer.exception()
        if error is None:
            self.inserted += 1
            if self._as_lines:
                print_line({"line": number, "id": answer.result()})
        elif isinstance(error, CallError) and error.call_code not in PASSING:
            self._refuse(number, error)
        elif isinstance(error, Exception):
            self.stopped = self.stopped or error

    def _refuse(self, number: int, error: Exception) -> None:
        self.refused += 1
        if self._as_lines:
            print_line({"line": number, "error": str(error)})
        else:
            say(f"line {number}: {error}")


def insert_file(
    server: Address, path: str, defaults: dict[str, Any], run_name: str, *, progress: bool | None, as_lines: bool
) -> ExitCode:
    """Insert the jobs of `path` (`-`: stdin) and return the exit code.

    Raises: what stopped it, after saying how far it came.
    """
    with _opened(path) as file:
        lines = JobLines(file, defaults, run_name)

        async def work(client: Client) -> FileInserter:
            with shown_progress("inserting", lines.size_bytes, progress) as shown:
                inserter = FileInserter(client, lines, shown, as_lines)
                try:
                    await inserter.run()
                except BaseException:
                    _report(inserter, as_lines)
                    say("not all were inserted: repeat the command to go on, nothing is inserted twice")
                    raise
            _report(inserter, as_lines)
            return inserter

        inserter = with_client(server, work, max_in_flight=IN_FLIGHT)
    return ExitCode.REFUSED if inserter.refused else ExitCode.OK


def _report(inserter: FileInserter, as_lines: bool) -> None:
    refused = f", {inserter.refused:,} refused" if inserter.refused else ""
    click.echo(f"{inserter.inserted:,} inserted{refused}", err=as_lines)


@contextmanager
def _opened(path: str) -> Iterator[BufferedReader]:
    if path != "-":
        with Path(path).open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.seek(0)
        yield cast("BufferedReader", copy)
