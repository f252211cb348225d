import io
import json
import logging

import pytest
import structlog

from kqs.config import LogSection
from kqs.log import configure


@pytest.fixture(autouse=True)
def _restore():
    root, kept = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**kept)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def lines():
    """Return a function that configures the log and gives back the lines written since."""
    stream = io.StringIO()

    def lines(**section):
        configure(LogSection(**section), stream)
        return lambda: stream.getvalue().splitlines()

    return lines


def test_text_is_one_line_with_its_values(lines):
    written = lines()
    structlog.get_logger("kqs.x").info("began", port=14151, where="a b", nothing=None)
    [line] = written()
    assert line.split(" ", 1)[1] == 'info    kqs.x: began port=14151 where="a b" nothing=None'


def test_json_is_one_object(lines):
    written = lines(format="json")
    structlog.get_logger("kqs.x").warning("began", port=14151, data=b"\xff")
    [line] = written()
    found = json.loads(line)
    assert list(found) == ["timestamp", "level", "logger", "event", "port", "data"]
    assert (found["level"], found["port"], found["data"]) == ("warning", 14151, "\\xff")


def test_lower_levels_are_left_out(lines):
    written = lines(level="warning")
    structlog.get_logger().info("no")
    structlog.get_logger().error("yes")
    assert len(written()) == 1


@pytest.mark.parametrize("look", ["text", "json"])
def test_hostile_text_stays_on_its_line(lines, look):
    written = lines(format=look)
    structlog.get_logger().info("a\nb\x1b[2J", id="c\r\nd\u2028e\x9b\ud800")
    [line] = written()
    assert line.isascii()
    assert line.isprintable()


def test_payload_keeps_its_look_in_the_message(lines):
    written = lines()
    structlog.get_logger().info('ping running, payload = {"a":1}')
    assert written()[0].endswith('ping running, payload = {"a":1}')


@pytest.mark.parametrize("look", ["text", "json"])
def test_long_values_are_cut(lines, look):
    written = lines(format=look)
    structlog.get_logger().info("x" * 5000, data="y" * 5000)
    assert len(written()[0]) < 1500


@pytest.mark.parametrize(("look", "count"), [("text", 5), ("json", 1)])
def test_exceptions_are_told_with_their_trace(lines, look, count):
    written = lines(format=look)
    try:
        raise ValueError("bad\x1b")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert len(written()) == count
    assert "bad\\x1b" in written()[-1] or "bad\\u001b" in written()[-1]


def test_other_libraries_look_the_same(lines):
    written = lines(format="json")
    logging.getLogger("asyncio").warning("slow %s", "callback")
    logging.getLogger("asyncio").info("left out")
    [found] = map(json.loads, written())
    assert (found["logger"], found["event"]) == ("asyncio", "slow callback")


def test_stream_that_is_gone_stops_nobody():
    stream = io.StringIO()
    configure(LogSection(), stream)
    stream.close()
    structlog.get_logger().info("unheard")
