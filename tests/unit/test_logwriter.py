import os
import select
import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from kqs import logwriter
from kqs.logwriter import MAX_LINE_BYTES, MAX_WAITING_BYTES, LineWriter
from tests.support.raising import raise_into


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def told(count: int) -> str:
    return f"{count} dropped"


def read_until(reader: int, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        assert select.select([reader], [], [], 10)[0], data[-200:]
        data += os.read(reader, 1 << 20)
    return data


def test_lines_come_out_whole_and_in_order(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines = LineWriter(writer, told)
    for number in range(100):
        lines.write(f"line {number}")
    assert read_until(reader, b"line 99\n").decode().splitlines() == [f"line {number}" for number in range(100)]


def test_nobody_waits_for_a_reader_that_rests_and_what_is_dropped_is_told(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines = LineWriter(writer, told)
    line = "x" * 999
    count = 3 * MAX_WAITING_BYTES // 1000
    for _ in range(count):
        lines.write(line)
    lines.flush(0.01)
    kept = dropped = 0
    while kept + dropped < count:  # some are written, and so told of, while others are still being dropped, or kept again
        written = read_until(reader, b"\n").decode().splitlines()
        kept += sum(found == line for found in written)
        dropped += sum(int(found.split()[0]) for found in written if found.endswith("dropped"))
    assert kept + dropped == count
    assert kept >= MAX_WAITING_BYTES // 1000
    assert dropped
    for _ in range(100):  # what was taken has made room for more
        lines.write(line)
    lines.write("again")
    assert read_until(reader, b"again\n").decode().splitlines() == [line] * 100 + ["again"]


def test_a_line_without_bound_is_cut(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    LineWriter(writer, told).write("y" * 5_000_000)
    assert len(read_until(reader, b"... (5000000 bytes)\n")) < MAX_LINE_BYTES + 100


def test_flush_returns_when_all_is_written(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    def put_late(descriptor: int, data: bytes) -> None:
        time.sleep(0.05)  # while it is not written, nothing else may have returned
        os.write(descriptor, data)

    monkeypatch.setattr(logwriter, "_put", put_late)
    reader, writer = pipe
    lines = LineWriter(writer, told)
    lines.write("last")
    lines.flush(10)
    assert select.select([reader], [], [], 0)[0]
    assert os.read(reader, 100) == b"last\n"


def test_a_pipe_that_another_process_made_non_blocking_loses_nothing(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    lines = LineWriter(writer, told)
    for _ in range(200):
        lines.write("z" * 999)
    lines.write("end")
    assert len(read_until(reader, b"end\n")) == 200 * 1000 + 4


def test_a_reader_that_is_gone_and_a_descriptor_that_is_replaced_stop_nobody() -> None:
    reader, writer = os.pipe()
    lines = LineWriter(writer, told)
    os.close(writer)
    lines.write("here")
    assert read_until(reader, b"here\n") == b"here\n"
    os.close(reader)
    lines.write("unheard")
    lines.flush(10)


def test_text_that_is_no_unicode_is_escaped(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    LineWriter(writer, told).write("a\ud800b")
    assert read_until(reader, b"\n") == b"a\\ud800b\n"


def test_a_forked_child_writes_by_itself(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = pipe
    lines = LineWriter(writer, told)
    monkeypatch.setattr(lines, "_pid", 1)
    os.close(lines.descriptor)
    monkeypatch.setattr(lines, "_wakes", SimpleQueue[threading.Event | None]())  # whose thread is not in the child
    before = threading.active_count()
    lines.write("child")
    lines.flush(10)
    assert lines._wakes.empty()
    assert read_until(reader, b"\n") == b"child\n"
    assert threading.active_count() == before


def test_lines_are_written_also_after_somebody_has_raised_into_the_thread_that_does_so(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    before = set(threading.enumerate())
    lines = LineWriter(writer, told)
    (thread,) = set(threading.enumerate()) - before
    raise_into(thread, lines._wakes)
    lines.write("one")
    lines.write("two")
    assert read_until(reader, b"two\n") == b"one\ntwo\n"


def test_a_write_that_somebody_has_ended_takes_no_room_of_later_lines(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pipe
    lines, put = LineWriter(writer, told), logwriter._put
    monkeypatch.setattr(logwriter, "_put", lambda *_: 1 / 0)
    lines.write("lost")
    lines.flush(0.1)  # nobody tells that it is done
    assert lines._waiting_bytes == 0
    monkeypatch.setattr(logwriter, "_put", put)
    lines.write("kept")
    assert read_until(reader, b"\n") == b"kept\n"
