import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from kqs.cli import COMMANDS, cli, run
from kqs.cli.insert import FIELDS
from kqs.config import Config, ServerSection
from kqs.errors import ExitCode, StartupError
from kqs.options import JobFields

ROOT = Path(__file__).parents[3]
TOO_LONG = "Invalid value for '--wait': expected a number of seconds above 0 and up to 604800, got 604801"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert f"Usage: kqs {name}" in capsys.readouterr().out


def _pages(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            assert found is not None
            yield from _pages(found, *path, name)


@pytest.mark.parametrize("path", list(_pages(cli)), ids=" ".join)
def test_help_fits_a_terminal_and_ends_what_it_begins(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    run([*path, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80 or (line.endswith("...") and "Usage" not in line)] == []


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    assert re.findall(r"^  ([a-z]+)  ", capsys.readouterr().out, re.M) == list(COMMANDS)


def test_the_version_is_told_by_the_option_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version"]) == 0
    told = capsys.readouterr().out
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == told


def test_help_says_where_the_server_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    assert capsys.readouterr().out.endswith("kqs jobs --server HOST:PORT.\n")


def test_the_manual_has_every_command() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert {name for name in COMMANDS if f"kqs {name}" not in page} == set()


@pytest.mark.parametrize("arguments", [["nope"], ["--nope"], ["job"], ["call", "ping", "1", "2"], ["stats", "--server", "a:b"]])
def test_wrong_usage_is_exit_code_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert re.fullmatch(r"(kqs.*?): .+ \(see \1 --help\)\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["insert"], "kqs insert: TYPE is missing (or --file) (see kqs insert --help)"),
        (["insert", "a", "--prio"], "kqs: Option '--prio' requires an argument"),
        (["job"], "kqs job: Missing argument 'ID' (see kqs job --help)"),
        (["job", "a", "--wait", "604801"], f"kqs job: {TOO_LONG} (see kqs job --help)"),
        (["insert", "a", "--wait", "604801"], f"kqs insert: {TOO_LONG} (see kqs insert --help)"),
        (["insrt", "a"], 'kqs: unknown command "insrt"; the nearest known one is "insert" (see kqs --help)'),
        (["xyzzy"], 'kqs: unknown command "xyzzy" (see kqs --help)'),
        (["journal", "nope"], "kqs journal: No such command 'nope' (see kqs journal --help)"),
    ],
)
def test_wrong_usage_is_told_in_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(arguments)
    assert capsys.readouterr().err == line + "\n"


@pytest.mark.parametrize("arguments", [[], ["journal"]])
def test_a_group_alone_shows_its_commands(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert "Commands:" in capsys.readouterr().err


def test_insert_offers_every_field_of_a_job() -> None:
    not_shown = {"type", "data", "on_conflict", "answer", "tick", "copies", "after", "after_any_end", "batch", "members"}
    assert set(FIELDS) == set(JobFields.__struct_fields__) - not_shown


def test_makerpc_prints_the_line_of_a_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["makerpc", "insert", '{type:"ping",data:{a:1}}', "--id", "7"]) == 0
    assert capsys.readouterr().out == '{"v":1,"id":7,"n":"insert","m":{"type":"ping","data":{"a":1}}}\n'


def test_makerpc_without_argument_sends_null(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["makerpc", "stats"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["n"], line["m"]) == ("stats", None)
    assert line["id"] > 0


def test_makerpc_names_anything_safely(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["makerpc", 'a"\n']) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 'a"\n'


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version"]) == 0
    assert run(["version", "--json"]) == 0
    text, line = capsys.readouterr().out.splitlines()
    assert text == f"kqs {json.loads(line)['version']}"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_is_a_script_for_the_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert "_KQS_COMPLETE" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["makerpc", "insert", "{a:1}"], ["version"]])
def test_small_commands_import_no_more_than_they_need(arguments: list[str]) -> None:
    program = f"import sys; from kqs.cli import run; run({arguments!r}); print(*sys.modules, file=sys.stderr)"
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=unmeasured, capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert loaded.isdisjoint({"asyncio", "uvloop", "motor", "pydantic", "structlog", "sqlite3"})
    assert not any(name.startswith("rich") for name in loaded)


def test_server_is_spared_rich_but_its_handlers_may_have_it() -> None:
    program = (
        "import sys; from kqs.cli.serve import import_structlog_alone as lean; lean(); import kqs.daemon;"
        "print('rich' in sys.modules); import rich.table; print('rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_serve_gives_the_daemon_its_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[Config] = []

    def serve(config: Config, _source: object) -> int:
        given.append(config)
        return 0

    monkeypatch.setattr("kqs.daemon.serve", serve)
    (tmp_path / "a.toml").write_text("[server]\nport = 1")
    assert run(["serve", "--config", str(tmp_path / "a.toml")]) == 0
    assert given == [Config(server=ServerSection(port=1))]


def test_serve_that_cannot_start_says_why_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def serve(_config: Config, _source: object) -> None:
        raise StartupError("port 14151 is in use", ExitCode.UNAVAILABLE)

    monkeypatch.setattr("kqs.daemon.serve", serve)
    monkeypatch.chdir(tmp_path)
    assert run(["serve"]) == 69
    assert capsys.readouterr().err == "kqs: port 14151 is in use\n"


def test_the_table_names_commands_that_are_there() -> None:
    context = cli.make_context("kqs", ["version"])
    commands = {name: cli.get_command(context, name) for name in COMMANDS}
    assert [name for name, command in commands.items() if command is None or command.name != name] == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["insert", "mail", "--run", "again"], "--run belongs to --file"),
        (["insert", "mail", "--run", ""], "--run belongs to --file"),
        (["insert", "mail", "--progress"], "--progress belongs to --file"),
        (["insert", "mail", "--no-progress"], "--progress belongs to --file"),
        (["bench", "echo", "--server", "localhost:1"], "--server belongs to --no-own: a server of its own would be measured"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == ExitCode.USAGE
    assert capsys.readouterr().err == f"kqs {arguments[0]}: {told} (see kqs {arguments[0]} --help)\n"
