"""The checkpoint: "the store has every record below this seq". One line of text, replaced as a whole.

kqs-checkpoint 1 JOURNAL_ID SEQ CRC        CRC: CRC-32C of what stands before it, 8 hex digits

Only a checkpoint gives a full disk its segments back, so its own space is taken beforehand: the next one is written into a
spare file that is allocated already, and then renamed, none of which needs a block that is still free.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from kqs.crc import crc32c
from kqs.journal.files import Files, keep_room, read_all, write_all

NAME = "checkpoint"
#: the next one's file; a name that a start cleans up
SPARE_NAME = "checkpoint.new"
_LINE = re.compile(rb"(kqs-checkpoint 1 ([0-9a-f]{32}) ([0-9]{1,19}) )([0-9a-f]{8})\n\Z")
#: more than any checkpoint is long: what is allocated for one, and read of one
_MAX_BYTES = 128


def encode_checkpoint(journal_id: bytes, seq: int) -> bytes:
    """Return the file's content."""
    body = b"kqs-checkpoint 1 %b %d " % (journal_id.hex().encode(), seq)
    return body + b"%08x\n" % crc32c(body)


class Checkpoint(NamedTuple):
    """The store has every record of the journal below `seq`."""

    journal_id: bytes
    seq: int


def parse_checkpoint(data: bytes) -> Checkpoint | None:
    """Return what it says, or None if the content is damaged."""
    match = _LINE.match(data)
    if match is None or int(match[4], 16) != crc32c(match[1]):
        return None
    return Checkpoint(bytes.fromhex(match[2].decode()), int(match[3]))


def write_checkpoint(files: Files, directory: Path, journal_id: bytes, seq: int) -> None:
    """Replace the checkpoint, durably, by means of the spare if there is one.

    Raises: OSError: it is the old one or the new one.
    """
    spare = directory / SPARE_NAME
    try:
        handle = files.open(spare, writable=True)
    except FileNotFoundError:
        handle = files.create(spare)
    _fill(files, spare, handle, encode_checkpoint(journal_id, seq))
    files.rename(spare, directory / NAME)
    files.flush_dir(directory)


def keep_spare(files: Files, directory: Path) -> None:
    """See to it that the next checkpoint needs no free block; where there is none to take, it is tried the next time.

    Not flushed: a start makes another.
    """
    keep_room(files, directory / SPARE_NAME, _MAX_BYTES)


def read_checkpoint(files: Files, directory: Path) -> Checkpoint | None:
    """Return the checkpoint of whatever journal; None if there is none, or a damaged one."""
    try:
        handle = files.open(directory / NAME)
    except FileNotFoundError:
        return None
    try:
        return parse_checkpoint(read_all(files, handle, _MAX_BYTES, 0))
    finally:
        files.close(handle)


def load_checkpoint(files: Files, directory: Path, journal_id: bytes) -> int | None:
    """Return the seq of the checkpoint.

    None: there is none, or it is damaged or of another journal: then everything is replayed, harmlessly.
    """
    found = read_checkpoint(files, directory)
    return None if found is None or found.journal_id != journal_id else found.seq


def _fill(files: Files, spare: Path, handle: int, data: bytes) -> None:
    """Let the spare hold exactly `data`, durably, or be gone: what a failed flush left of it is not to be trusted."""
    try:
        write_all(files, handle, data, 0)
        files.truncate(handle, len(data))
        files.flush(handle)
    except OSError:
        with suppress(OSError):
            files.unlink(spare)
        raise
    finally:
        files.close(handle)
