"""The checkpoint: "the store has every record below this seq". One line of text, replaced as a whole.

kqs-checkpoint 1 JOURNAL_ID SEQ CRC        CRC: CRC-32C of what stands before it, 8 hex digits
"""

from __future__ import annotations

import re
from pathlib import Path

from crc32c import crc32c

from kqs.journal.files import Files, read_all, write_whole

NAME = "checkpoint"
_LINE = re.compile(rb"(kqs-checkpoint 1 ([0-9a-f]{32}) ([0-9]{1,19}) )([0-9a-f]{8})\n\Z")
_MAX_BYTES = 128


def encode_checkpoint(journal_id: bytes, seq: int) -> bytes:
    """Return the file's content."""
    body = b"kqs-checkpoint 1 %b %d " % (journal_id.hex().encode(), seq)
    return body + b"%08x\n" % crc32c(body)


def decode_checkpoint(data: bytes, journal_id: bytes) -> int | None:
    """Return the seq, or None if the content is damaged or of another journal: then everything is replayed, harmlessly."""
    match = _LINE.match(data)
    if match is None or int(match[4], 16) != crc32c(match[1]) or bytes.fromhex(match[2].decode()) != journal_id:
        return None
    return int(match[3])


def write_checkpoint(files: Files, directory: Path, journal_id: bytes, seq: int) -> None:
    """Replace the checkpoint, durably. Raises: OSError: it is the old one or the new one."""
    write_whole(files, directory / NAME, encode_checkpoint(journal_id, seq))


def load_checkpoint(files: Files, directory: Path, journal_id: bytes) -> int | None:
    """Return the seq of the checkpoint; None if there is none that counts."""
    try:
        handle = files.open(directory / NAME)
    except FileNotFoundError:
        return None
    try:
        return decode_checkpoint(read_all(files, handle, _MAX_BYTES, 0), journal_id)
    finally:
        files.close(handle)
