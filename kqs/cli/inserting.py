"""Inserting many jobs with many calls in flight, each under an id that it will always have, so that it can be repeated."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import click
import msgspec

from kqs.cli.connection import with_client
from kqs.cli.exits import say
from kqs.cli.output import print_line
from kqs.cli.progress import Progress, shown_progress
from kqs.client import DEFAULT_TIMEOUT_S, Address, Client
from kqs.errors import PASSING_CODES, CallError, ExitCode

#: what the server thinks of a line's length is told with its job; the client's own limit would end the whole
MAX_LINE_BYTES = 2**30
#: refused for what the server is, or is in, and not for what the job is: the rest would be refused too
NOT_THE_JOBS = PASSING_CODES | {"unknown_call", "unauthorized", "forbidden"}


class JobSource(Protocol):
    """Where the jobs come from. call: what takes them. size_bytes: of all that `read` will return, or about."""

    call: str
    size_bytes: int

    async def read(self) -> list[tuple[int, bytes]]:
        """Return the next (number, text); [] at the end."""
        ...

    def job(self, number: int, line: bytes, /) -> bytes:
        """Return what was read as the JSON of a job. Raises: CallError: it is none."""
        ...

    def named(self, number: int) -> tuple[str, int | str]:
        """Return what a number is called: ("line", 3)."""
        ...


class Inserter:
    """Inserts the jobs and counts what came of them. stopped: why the rest was not tried, if so."""

    def __init__(self, client: Client, source: JobSource, progress: Progress, as_lines: bool) -> None:
        self._client = client
        client.on_lost = self._tell_lost
        self._source = source
        self._progress = progress
        self._as_lines = as_lines
        self._open: set[asyncio.Future[msgspec.Raw]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._told_lost = False
        self.inserted = 0
        self.refused = 0
        self.stopped: Exception | None = None

    async def run(self) -> None:
        """Insert all, or those before trouble that would meet the others as well, which is raised in the end."""
        while not self.stopped and (found := await self._source.read()):
            for number, text in found:
                if self.stopped:
                    break
                await self._start(number, text)
        if self.stopped is None or isinstance(self.stopped, CallError):  # else nobody answers what is still open
            await self._idle.wait()
        if self.stopped:
            raise self.stopped

    async def _start(self, number: int, text: bytes) -> None:
        try:
            job = self._source.job(number, text)
            answer = await self._client.start(self._source.call, job, repeatable=True)
        except CallError as error:
            self._refuse(number, error)
        else:
            self._await(answer, number, len(text))

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
            self._told_lost = False
            if self._as_lines:
                print_line(dict([self._source.named(number)]) | _told(answer.result()))
        elif isinstance(error, CallError) and error.call_code not in NOT_THE_JOBS:
            self._refuse(number, error)
        elif isinstance(error, Exception):
            self.stopped = self.stopped or error

    def _tell_lost(self, reason: str) -> None:
        """Say it once, until an insert is answered again."""
        if not self._told_lost:
            self._told_lost = True
            say(
                f"the connection to {self._client.address} was lost: {reason}; trying again for up to {DEFAULT_TIMEOUT_S:.0f} s"
            )

    def _refuse(self, number: int, error: Exception) -> None:
        self.refused += 1
        what, name = self._source.named(number)
        if self._as_lines:
            print_line({what: name, "error": str(error)})
        else:
            say(f"{what} {name}: {error}")


def _told(answer: msgspec.Raw) -> dict[str, Any]:
    """Return what is printed of an answer: an id, or an object where the line has asked for one."""
    if bytes(answer).startswith(b"{"):
        return dict(msgspec.json.decode(answer, type=dict[str, Any]))
    return {"id": answer}


def insert_all(server: Address, source: JobSource, *, progress: bool | None, as_lines: bool) -> ExitCode:
    """Insert the jobs, say how many, and return the exit code.

    Raises: what stopped it, after saying how far it came.
    """

    async def work(client: Client) -> Inserter:
        with shown_progress("inserting", source.size_bytes, progress) as shown:
            inserter = Inserter(client, source, shown, as_lines)
            try:
                await inserter.run()
            except BaseException:
                _report(inserter, as_lines)
                say("not all were inserted: repeat the command to go on, nothing is inserted twice")
                raise
        _report(inserter, as_lines)
        return inserter

    inserter = with_client(server, work, max_line_bytes=MAX_LINE_BYTES)
    return ExitCode.REFUSED if inserter.refused else ExitCode.OK


def _report(inserter: Inserter, as_lines: bool) -> None:
    refused = f", {inserter.refused:,} refused" if inserter.refused else ""
    click.echo(f"{inserter.inserted:,} inserted{refused}", err=as_lines)
