import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec
import pytest
import structlog

from kqs import log as logs
from kqs.config import LogSection
from kqs.log import configure, get_logger


@pytest.fixture(autouse=True)
def _restore(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root, kept, processors = logging.getLogger(), structlog.get_config(), logs.PROCESSORS[:]
    level = root.level
    monkeypatch.setattr(logs, "_settings", logs._Settings())
    monkeypatch.setattr(logging, "basicConfig", logging.basicConfig)
    yield
    structlog.configure(**kept)
    logs.PROCESSORS[:] = processors
    root.handlers.clear()
    root.setLevel(level)


class Lines(Protocol):
    """Configures the log; gives a function that returns the lines written since."""

    def __call__(self, *, level: str = "info", format: str = "text") -> Callable[[], list[str]]: ...  # noqa: A002


@pytest.fixture
def lines() -> Lines:
    stream = io.StringIO()

    def lines(**section: str) -> Callable[[], list[str]]:
        logging.getLogger().handlers.clear()  # pytest's own
        configure(msgspec.structs.replace(LogSection(), **section), stream)
        return lambda: stream.getvalue().splitlines()

    return lines


def test_text_is_one_line_with_its_values(lines: Lines) -> None:
    written = lines()
    get_logger("kqs.x").info("began", port=14151, where="a b", nothing=None)
    [line] = written()
    assert line.split(" ", 1)[1] == 'info    kqs.x: began port=14151 where="a b" nothing=None'


def test_json_is_one_object(lines: Lines) -> None:
    written = lines(format="json")
    get_logger("kqs.x").warning("began", port=14151, data=b"\xff")
    [line] = written()
    found = json.loads(line)
    assert list(found) == ["timestamp", "level", "logger", "event", "port", "data"]
    assert (found["level"], found["port"], found["data"]) == ("warning", 14151, "\\xff")


def test_lower_levels_are_left_out(lines: Lines) -> None:
    written = lines(level="warning")
    structlog.get_logger().info("no")
    structlog.get_logger().error("yes")
    assert len(written()) == 1


@pytest.mark.parametrize("look", ["text", "json"])
def test_hostile_text_stays_on_its_line(lines: Lines, look: str) -> None:
    written = lines(format=look)
    structlog.get_logger().info("a\nb\x1b[2J", id="c\r\nd\u2028e\x9b\ud800")
    [line] = written()
    assert line.isascii()
    assert line.isprintable()


def test_payload_keeps_its_look_in_the_message(lines: Lines) -> None:
    written = lines()
    structlog.get_logger().info('ping running, payload = {"a":1}')
    assert written()[0].endswith('ping running, payload = {"a":1}')


@pytest.mark.parametrize("look", ["text", "json"])
def test_long_values_are_cut(lines: Lines, look: str) -> None:
    written = lines(format=look)
    structlog.get_logger().info("x" * 5000, data="y" * 5000)
    assert len(written()[0]) < 1500


@pytest.mark.parametrize(("look", "count"), [("text", 5), ("json", 1)])
def test_exceptions_are_told_with_their_trace(lines: Lines, look: str, count: int) -> None:
    written = lines(format=look)
    try:
        raise ValueError("bad\x1b")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert len(written()) == count
    assert "bad\\x1b" in written()[-1] or "bad\\u001b" in written()[-1]


@pytest.mark.parametrize("look", ["text", "json"])
def test_of_an_exception_that_holds_many_others_few_are_told(lines: Lines, look: str) -> None:
    written = lines(format=look)
    many = ExceptionGroup("many", [ValueError(number) for number in range(10_000)])
    structlog.get_logger().error("failed", exc_info=many)
    logging.getLogger("asyncio").error("failed", exc_info=many)
    told = "\n".join(written())
    assert told.count("many (10000 sub-exceptions)") == told.count("(more exceptions)") == 2
    assert told.count("ValueError") < 50


def test_a_trace_of_nothing_is_none(lines: Lines) -> None:
    written = lines(format="json")
    structlog.get_logger().exception("failed")
    assert json.loads(written()[0])["event"] == "failed"


def test_other_libraries_look_the_same(lines: Lines) -> None:
    written = lines(format="json")
    logging.getLogger("asyncio").warning("slow %s", "callback")
    logging.getLogger("asyncio").info("left out")
    [found] = map(json.loads, written())
    assert (found["logger"], found["event"]) == ("asyncio", "slow callback")


def test_stream_that_is_gone_stops_nobody() -> None:
    stream = io.StringIO()
    configure(LogSection(), stream)
    stream.close()
    structlog.get_logger().info("unheard")


def test_what_users_make_of_structlog_changes_no_line_of_ours(lines: Lines) -> None:
    written = lines()
    log = get_logger("kqs.x")
    theirs = io.StringIO()
    structlog.configure(processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.WriteLoggerFactory(theirs))
    structlog.contextvars.bind_contextvars(tenant=7)
    log.info("ours")
    structlog.get_logger().info("theirs")
    structlog.contextvars.clear_contextvars()
    [line] = written()
    assert line.endswith("info    kqs.x: ours")
    assert json.loads(theirs.getvalue())["event"] == "theirs"


def test_users_who_configure_nothing_are_read_from_the_servers_own_level_up(lines: Lines) -> None:
    written = lines()
    logging.info("by the root")
    logging.getLogger("shop").info("by a name")
    logging.getLogger("shop").debug("left out")
    structlog.get_logger("shop").info("by structlog")
    assert [line.split(" ", 1)[1] for line in written()] == [
        "info    root: by the root",
        "info    shop: by a name",
        "info    shop: by structlog",
    ]


@pytest.mark.parametrize("force", [False, True])
def test_basic_config_does_what_it_does_in_any_program(lines: Lines, tmp_path: Path, force: bool) -> None:
    written = lines()
    logging.basicConfig(filename=tmp_path / "shop.log", level=logging.DEBUG, format="%(message)s", force=force)
    logging.debug("theirs")
    get_logger("kqs.x").info("ours")
    logging.shutdown()
    assert (tmp_path / "shop.log").read_text() == "theirs\n"
    assert [line[-4:] for line in written()] == ["ours"]


def test_basic_config_without_a_wish_changes_nothing(lines: Lines) -> None:
    written = lines()
    logging.basicConfig()
    logging.warning("here")
    assert written()[0].endswith("root: here")


def test_logging_that_is_disabled_does_not_silence_the_server(lines: Lines) -> None:
    written = lines()
    logging.disable()
    try:
        get_logger("kqs.x").info("ours")
    finally:
        logging.disable(logging.NOTSET)
    assert len(written()) == 1


def test_a_line_that_cannot_be_formatted_ends_nothing(lines: Lines, capsys: pytest.CaptureFixture[str]) -> None:
    written = lines()
    logging.warning("%d", "no number")
    logging.warning("next")
    assert len(written()) == 1
    assert "TypeError" in capsys.readouterr().err
