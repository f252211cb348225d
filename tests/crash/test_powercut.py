"""The power of a real server is cut between any two of its system calls, and what they were is read from a record of them."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from tests.crash.powercut import powercut
from tests.support.files import Op
from tests.support.require import require
from tests.support.traced import STRACE, Traced

CUTS = 5

FOLDER = Path("/srv/journal")
FILE = FOLDER / "000000000001.kqj"


def hexed(text: str) -> str:
    """Return text as strace writes it."""
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


def traced(*lines: str) -> list[Op]:
    """Return what these lines tell, in which text stands between backquotes."""
    written = ["".join(hexed(part) if index % 2 else part for index, part in enumerate(line.split("`"))) for line in lines]
    return list(Traced(FOLDER).ops(f"{line}\n" for line in written))


CREATED = f'1 openat(AT_FDCWD<`/srv`>, "`{FILE}`", O_RDWR|O_CREAT|O_EXCL|O_CLOEXEC, 0600) = 7<`{FILE}`>'
MADE = Op("name", 1, new=FILE)


def test_a_file_is_made_written_flushed_renamed_and_removed() -> None:
    other = FOLDER / "000000000002.kqj"
    assert traced(
        CREATED,
        f"1 fallocate(7<`{FILE}`>, 0, 0, 4096) = 0",
        f'1 pwrite64(7<`{FILE}`>, "`hello`", 5, 100) = 3',
        f"1 fdatasync(7<`{FILE}`>)     = 0",
        f'1 rename("`{FILE}`", "`{other}`") = 0',
        f"1 fsync(8<`{FOLDER}`>) = 0",
        f"1 ftruncate(7<`{other}`>, 103) = 0",
        f'1 unlink("`journal/{other.name}`") = 0',
    ) == [
        MADE,
        Op("size", 1, 4096),
        Op("write", 1, 100, b"hel"),
        Op("flush", 1),
        Op("name", 1, old=FILE, new=other),
        Op("flush_dir"),
        Op("size", 1, 103),
        Op("name", old=other),
    ]


def test_writes_without_an_offset_follow_one_another() -> None:
    assert traced(CREATED, *(f'1 write(7<`{FILE}`>, "`{text}`", 2) = 2' for text in ("ab", "cd"))) == [
        MADE,
        Op("write", 1, 0, b"ab"),
        Op("write", 1, 2, b"cd"),
    ]


def test_a_flush_counts_from_its_end_and_what_is_said_from_its_beginning() -> None:
    assert traced(
        CREATED,
        f"1 fdatasync(7<`{FILE}`> <unfinished ...>",
        '2 write(9<`socket:[11]`>, "`{}`", 2 <unfinished ...>',
        "1 <... fdatasync resumed>) = 0",
        "2 <... write resumed>) = 2",
    ) == [MADE, Op("mark", mark=b"{}"), Op("flush", 1)]


def test_a_write_is_done_though_the_process_was_killed_amid_it() -> None:
    assert traced(
        CREATED,
        f'1 pwrite64(7<`{FILE}`>, "`hello`", 5, 100 <unfinished ...>',
        f"2 fdatasync(7<`{FILE}`> <unfinished ...>",
        "1 +++ killed by SIGKILL +++",
    ) == [MADE, Op("write", 1, 100, b"hello")]


def test_what_fails_and_what_others_do_elsewhere_changes_nothing() -> None:
    assert not traced(
        f'1 openat(AT_FDCWD<`/srv`>, "`{FILE}`", O_RDWR|O_CREAT|O_EXCL|O_CLOEXEC, 0600) = -1 EEXIST (File exists)',
        '1 openat(AT_FDCWD<`/srv`>, "`/etc/hosts`", O_RDONLY|O_CLOEXEC) = 7<`/etc/hosts`>',
        '1 write(2<`/srv/server.log`>, "`started`", 7) = 7',
    )


def test_a_call_that_nobody_can_read_is_no_silence() -> None:
    with pytest.raises(AssertionError, match="pwritev"):
        traced(CREATED, f'1 pwritev(7<`{FILE}`>, [{{iov_base="`ab`", iov_len=2}}], 1, 0) = 2')


def test_what_a_server_has_said_is_kept_wherever_its_power_is_cut(tmp_path: Path) -> None:
    require("strace")
    if subprocess.run((*STRACE, "-o", "/dev/null", "true"), check=False, capture_output=True).returncode:
        pytest.skip("strace may trace nothing here")
    powercut(tmp_path, CUTS, random.Random())
