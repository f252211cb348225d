"""The table of calls, and what each answers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kqs.errors import ERROR_CODES, StoreUnavailableError
from kqs.rpc.calls import CALLS
from tests.support.conversing import Conversing, codes

PROTOCOL = Path(__file__).parents[3] / "docs" / "protocol.md"


async def test_ping_answers_pong() -> None:
    assert await Conversing().ask("ping") == "pong"


async def test_help_shows_the_whole_table_or_one_row() -> None:
    shown = await Conversing().ask("help")
    assert [row["name"] for row in shown] == list(CALLS)
    assert [row["name"] for row in await Conversing().ask("help", '"jobs"')] == ["jobs"]


async def test_help_for_an_unknown_call_is_an_error() -> None:
    assert (await Conversing().ask("help", '"nope"'))["code"] == "unknown_call"


async def test_quit_answers_and_asks_for_the_stop() -> None:
    talk = Conversing()
    assert await talk.ask("quit") == "stopping"
    assert talk.backend.stop_requested.is_set()


async def test_an_unexpected_exception_tells_the_peer_only_an_id(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Conversing()

    async def broken() -> dict[str, int | float]:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(talk.backend, "stats", broken)
    error = await talk.ask("stats")
    fault = re.fullmatch(r"internal error ([0-9a-f]{16})", error["message"])
    assert error["code"] == "internal"
    assert fault
    assert fault[1] in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in CALLS if name != "echo"])
@pytest.mark.parametrize("argument", ["%s", '{"type":%s}', '{"id":[[%s]]}', '[{"run":%s}]'])
async def test_a_number_of_more_digits_than_anything_reads_is_refused_like_any_other(name: str, argument: str) -> None:
    assert codes(Conversing().hear(f'{{"n":"{name}","m":{argument % ("9" * 5000)}}}\n'.encode())) in (
        ["bad_call"],
        ["bad_job"],
        ["ok"],  # a list, each member of which has an answer of its own
    )


async def test_a_known_kind_of_trouble_tells_its_code_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Conversing()

    async def away() -> dict[str, int | float]:
        raise StoreUnavailableError("/secret/path is locked")

    monkeypatch.setattr(talk.backend, "stats", away)
    error = await talk.ask("stats")
    assert (error["code"], error["message"]) == ("busy", ERROR_CODES["busy"])


async def test_errors_are_counted_by_code() -> None:
    talk = Conversing()
    assert codes(talk.hear(b'{"n":"nope"}\n?\n?\n')) == ["unknown_call", "bad_json", "bad_json"]
    assert talk.context.counters.errors == {"unknown_call": 1, "bad_json": 2}


def test_the_manual_names_every_call_and_every_error_code() -> None:
    text = PROTOCOL.read_text()
    calls = re.findall(r"^\| `(\w+)` \| (?:any|insert|read|work|manage|admin) \|", text, re.MULTILINE)
    errors = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text.partition("## Error codes")[2], re.MULTILINE))
    assert sorted(calls) == sorted(CALLS)
    assert errors == ERROR_CODES
