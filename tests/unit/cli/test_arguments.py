import json
import re
from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner

from kqs.cli import cli
from kqs.cli.arguments import Number, Seconds, SecondsWithin, ServerAddress, WholeNumber, YesOrNo, as_json
from kqs.cli.insert import FIELDS
from kqs.client import Address


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ('{"a":1}', b'{"a":1}'),
        ('{"a" : [1,\n 2]}', b'{"a":[1,2]}'),
        ('{type:"ping",data:{a:1}}', b'{"type":"ping","data":{"a":1}}'),
        ("{a:'x',}", b'{"a":"x"}'),
        ("0x10", b"16"),
        ("12", b"12"),
        ("1e400", b"1e400"),
        ("18446744073709551616", b"18446744073709551616"),
        ("null", b"null"),
        ('"a"', b'"a"'),
        ("hello", b'"hello"'),
        ("two words", b'"two words"'),
        ("half}", b'"half}"'),
        ('say "hello"', b'"say \\"hello\\""'),
        ("", b'""'),
        ("ä", '"ä"'.encode()),
    ],
)
def test_json_and_json5_and_text_are_sent(text: str, sent: bytes) -> None:
    assert as_json(text) == sent


@pytest.mark.parametrize("text", ["{a:1", '{"a":1}}', " [1,2", '"half', '{"a":1} {"b":2}', "{a b}"])
def test_what_begins_as_json_and_is_none_is_a_slip(text: str) -> None:
    with pytest.raises(click.UsageError, match=re.escape(f"expected JSON or JSON5, got {text}; in quotes it is a string")):
        as_json(text)


def test_argument_is_always_one_line() -> None:
    assert json.loads(as_json("a\nb")) == "a\nb"
    assert b"\n" not in as_json("a\nb")


@pytest.mark.parametrize("text", ["NaN", "{a:Infinity}", "a\udcff", "[" * 100_000])
def test_what_json_cannot_say_is_refused(text: str) -> None:
    with pytest.raises(click.UsageError):
        as_json(text)


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1e999", "Infinity"])
@pytest.mark.parametrize(
    "words",
    [
        *(["insert", "t", f"--{name.replace('_', '-')}"] for name, (type_, _) in FIELDS.items() if isinstance(type_, Seconds)),
        ["insert", "t", "--at"],
        ["insert", "--file", "none", "--delay"],
        ["call", "ping", "--timeout"],
        ["limit", "t", "--rate"],
        ["limit", "t", "--per-s"],
        ["top", "--interval"],
    ],
    ids=" ".join,
)
def test_numbers_that_nobody_can_count_are_refused_by_the_name_of_their_option(words: list[str], text: str) -> None:
    done = CliRunner().invoke(cli, [*words, text])
    assert done.exit_code == 2
    assert words[-1] in done.output


def test_help_shows_no_range_that_is_none() -> None:
    page = CliRunner().invoke(cli, ["insert", "--help"], terminal_width=200).output
    assert "--delay SECONDS" in page
    assert "[x" not in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["insert", "t", "--delay", "soon"], "--delay': 'soon' is no number of seconds"),
        (["insert", "t", "--keep", ""], "--keep': '' is no number of seconds"),
        (["insert", "t", "--ttr", "nan"], "--ttr': nan is no finite number of seconds"),
        (["insert", "t", "--retries", "2.5"], "--retries': '2.5' is no whole number"),
        (["insert", "t", "--auto-touch=maybe"], "--auto-touch': 'maybe' is neither true nor false"),
        (["call", "ping", "--timeout", "soon"], "--timeout': 'soon' is no number of seconds"),
        (["call", "ping", "--timeout", "0"], "--timeout': expected a number of seconds above 0 and up to 10000000000, got 0"),
        (
            ["call", "ping", "--timeout", "1e300"],
            "--timeout': expected a number of seconds above 0 and up to 10000000000, got 1e300",
        ),
        (["jobs", "--limit", "many"], "--limit': 'many' is no whole number"),
        (["jobs", "--limit", "0"], "--limit': expected a whole number from 1, got 0"),
        (["top", "--interval", "0.1"], "--interval': expected a number of seconds from 0.2 to 3600, got 0.1"),
        (["limit", "mail", "--rate", "fast"], "--rate': 'fast' is no number"),
        (["limit", "mail", "--rate", "5", "--lift", "rate"], "rate is given and lifted, expected one of them"),
        (["bench", "--count", "7"], "--count': expected a whole number from 8, got 7"),
        (["makerpc", "ping", "--id", "x"], "--id': 'x' is no whole number"),
        (["stats", "--server", "14152"], "'14152': expected HOST:PORT or unix:PATH; a port of this machine is :14152"),
        (
            ["stats", "--server", "http://localhost:14151"],
            "'http://localhost:14151': expected HOST:PORT or unix:PATH, not a URL",
        ),
        (["work", "--connect", "tcp://db1", "jobs"], "'tcp://db1': expected HOST:PORT or unix:PATH, not a URL"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_an_option_cannot_take_is_said_in_plain_words(words: list[str], said: str) -> None:
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
    assert "valid seconds" not in done.output


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Number(), "-2.5", -2.5),
        (Seconds(), "1e9", 1e9),
        (SecondsWithin(), "0.001", 0.001),
        (SecondsWithin(9), "9", 9.0),
        (SecondsWithin(9, least=0.2), "0.2", 0.2),
        (WholeNumber(), "-3", -3),
        (WholeNumber(1), "1", 1),
        (YesOrNo(), "off", False),
        (ServerAddress(), "unix:a.sock", Address(socket="a.sock")),
        (ServerAddress(), Address(port=5), Address(port=5)),
    ],
)
def test_what_an_option_can_take_is_taken(kind: Any, text: object, value: object) -> None:
    assert kind.convert(text, None, None) == value


@pytest.mark.parametrize("name", ["insert", "call", "jobs", "job", "bench", "makerpc", "stats", "health", "serve"])
def test_no_command_explains_itself_in_formulas(name: str) -> None:
    page = CliRunner().invoke(cli, [name, "--help"], terminal_width=200).output
    assert "RANGE" not in page
    assert "x>" not in page
    assert "FLOAT" not in page


def _options(command: click.Command) -> Iterator[tuple[str, click.Parameter]]:
    for option in command.params:
        yield f"{command.name} {option.name}", option
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from _options(found)


def test_no_option_takes_numbers_in_the_way_of_click() -> None:
    floats = [name for name, option in _options(cli) if isinstance(option.type, click.types.FloatParamType)]
    assert not floats, "which lets inf and nan pass: take Number"
