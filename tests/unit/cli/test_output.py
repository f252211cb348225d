import json

import msgspec
import pytest
from rich.cells import cell_len

from kqs.cli import jobs, output, schedules, views
from kqs.cli.output import brief, in_lines, plainly, print_line, print_pairs, print_pretty, print_table, shown, shown_time


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (12345, "12,345"),
        (1.5, "1.5"),
        (2.0, "2"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ({"a": [1]}, '{"a":[1]}'),
        (msgspec.Raw(b'{"a": 1e400}'), '{"a": 1e400}'),
        (msgspec.Raw(b'"\xc2\x9b"'), '"\\x9b"'),
        (msgspec.Raw(b"null"), "-"),
    ],
)
def test_cells_are_shown_for_people(value: object, text: str) -> None:
    assert shown(value) == text


def test_table_has_headings_and_rows(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("id", "count"), [("a", 1), ("[red]b", 20)], numbers=("count",))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["id", "count"]
    assert [line.split() for line in lines[2:]] == [["a", "1"], ["[red]b", "20"]]


@pytest.mark.parametrize(
    ("value", "text"), [(10000, "10000"), (3600.0, "3600"), (1234.5, "1234.5"), (True, True), ("1,2", "1,2")]
)
def test_a_number_can_be_shown_as_it_is_typed(value: object, text: object) -> None:
    assert plainly(value) == text


def test_a_text_of_several_lines_is_named_once() -> None:
    assert in_lines("error", "a\n  b\n") == [("error", "a"), ("", "  b")]
    assert in_lines("error", None) == [("error", None)]
    assert in_lines("error", "") == [("error", "")]


@pytest.mark.parametrize(
    ("text", "beginning"),
    [
        (None, None),
        ("", ""),
        ("\n", ""),
        ("no", "no"),
        ("no\n", "no"),
        ("2 errors\nname\n  missing", "2 errors…"),
        ("\n\n2 errors\r\nname", "2 errors…"),
        ("a\u2028b", "a…"),
        ("x" * 100, "x" * 100),
        ("x" * 4000, "x" * 100 + "…"),
    ],
)
def test_of_a_long_text_an_overview_shows_the_beginning(text: str | None, beginning: str | None) -> None:
    assert brief(text) == beginning


def test_a_row_is_one_line_and_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\nb\rc\x1b[2J\u2028d"
    print_table(("id", hostile), [("x", hostile), ("y", [hostile])], numbers=(hostile,))
    print_pairs([(hostile, hostile)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert "a\\nb\\rc\\x1b[2J\\u2028d" in lines[2]
    assert all(line.isprintable() for line in lines)


def test_nothing_is_folded_into_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("id", "data"), [("a", "x" * 500)])
    print_pairs([("data", "y" * 500)])
    out = capsys.readouterr().out
    assert "x" * 500 in out
    assert "y" * 500 in out


def test_json_lines_are_what_the_server_said(capsys: pytest.CaptureFixture[str]) -> None:
    print_line(msgspec.Raw(b'{ "a" : 1e400, "b":18446744073709551616}'))
    assert capsys.readouterr().out == '{"a":1e400,"b":18446744073709551616}\n'


def test_json_keeps_control_characters_from_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_pretty({"a": "\x1b\x9b\u2028"})
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == {"a": "\x1b\x9b\u2028"}


def test_no_time_is_no_text() -> None:
    assert shown_time(None) is None
    assert shown_time(0.0) is not None


@pytest.mark.parametrize(("columns", "headings"), [(200, "id type prio error"), (34, "id type error"), (25, "id error")])
def test_a_narrow_terminal_goes_without_spare_columns(
    columns: int, headings: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    rows = [("0123456789", "resize", 1, "x" * 300)]
    print_table(("id", "type", "prio", "error"), rows, numbers=("prio",), spare=("prio", "type"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == headings.split()
    assert len(lines) == 3
    assert all(len(line) <= columns for line in lines)


@pytest.mark.parametrize(
    ("columns", "headings"), [(32, "type waiting workers"), (25, "type waiting"), (12, "type"), (5, "type")]
)
def test_a_very_narrow_terminal_is_shown_the_first_columns(
    columns: int, headings: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    rows = [("print", 1, 7, "a-worker-elsewhere")]
    print_table(("type", "waiting", "of", "workers"), rows, numbers=("waiting", "of"), spare=("of",))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == headings.split()
    assert lines[2].split()[0] == "print"
    assert all(len(line) <= columns for line in lines)


def test_characters_that_take_two_places_count_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    print_table(("id", "type", "error"), [("日本語の型日本語の型", "resize", "失敗しました" * 9)], spare=("type",))
    lines = capsys.readouterr().out.splitlines()
    assert (lines[0].split(), len(lines)) == (["id", "error"], 3)
    assert all(cell_len(line) <= 40 for line in lines)


def test_a_column_that_says_nothing_goes_first() -> None:
    rows = [["x" * 10, "1", "-", "end"], ["y" * 10, "2", "-", "end"]]
    assert output._fitting(("id", "prio", "of", "error"), rows, ("prio", "of"), 25)[0] == ["id", "prio", "error"]


def test_a_pipe_has_every_column(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_table(("id", "type", "error"), [("0123456789", "resize", "x" * 300)], spare=("type",))
    assert capsys.readouterr().out.splitlines()[2].split() == ["0123456789", "resize", "x" * 300]


@pytest.mark.parametrize(
    ("columns", "spare"),
    [
        (views.TYPE_COLUMNS, views.SPARE_OF_TYPES),
        (views.WORKER_COLUMNS, views.SPARE_OF_WORKERS),
        (schedules._COLUMNS, schedules._SPARE),
        (jobs._COLUMNS, jobs._SPARE),
        (("attempt", "worker", "started_at", "ended_at", "state", "error"), jobs._SPARE_OF_RUNS),
    ],
)
def test_every_table_goes_without_columns_that_it_has(columns: tuple[str, ...], spare: tuple[str, ...]) -> None:
    rows = [["x" * 30 for _ in columns]]
    headings, cells = output._fitting(columns, rows, spare, 20)
    assert headings == [name for name in columns if name not in spare]
    assert len(cells[0]) == len(headings)
