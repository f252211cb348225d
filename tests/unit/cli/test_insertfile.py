import asyncio
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import Raw

from kqs.cli import insertfile
from kqs.cli.insertfile import JobLines
from kqs.cli.inserting import Inserter
from kqs.client import Address, Client, ConnectionLostError
from kqs.errors import CallError
from kqs.ids import ID_PATTERN, Ids
from tests.support.line_server import Line, LineServer

FILE = b'{"type":"a"}\n\n{"type":"a"}\n{"type":"b","id":"mine","data":1e400}'


class Done:
    """A progress that only counts."""

    def __init__(self) -> None:
        self.bytes = 0

    def advance(self, count: int) -> None:
        self.bytes += count


def lines_of(content: bytes, run_name: str = "", **defaults: object) -> JobLines:
    return JobLines(io.BufferedReader(io.BytesIO(content)), defaults, run_name)


def jobs(content: bytes, run_name: str = "", **defaults: object) -> list[bytes]:
    lines = lines_of(content, run_name, **defaults)
    return [lines.job(number, line) for number, line in asyncio.run(lines.read())]


def ids(content: bytes, run_name: str = "") -> list[str]:
    return [json.loads(job)["id"] for job in jobs(content, run_name)]


async def insert(
    content: bytes, answer: Callable[[Line], Any], progress: Done | None = None, as_lines: bool = False
) -> Inserter:
    async with LineServer(answer) as server, Client(server.address) as client:
        inserter = Inserter(client, lines_of(content), progress or Done(), as_lines)
        await inserter.run()
    return inserter


def accept(line: Line) -> str:
    job_id: str = line["m"]["id"]
    return job_id


def test_each_line_has_the_same_id_every_time() -> None:
    assert ids(FILE) == ids(FILE)
    assert len(set(ids(FILE))) == 3


def test_own_id_of_a_line_is_kept() -> None:
    assert ids(FILE)[2] == "mine"


def test_an_id_of_null_is_none_so_that_the_file_can_be_repeated() -> None:
    content = b'{"type":"a","id":null}\n{"type":"a", "id" : null }'
    assert ids(content) == ids(content)
    assert all(map(ID_PATTERN.fullmatch, ids(content)))


def test_other_files_and_other_runs_are_other_jobs() -> None:
    assert set(ids(FILE)[:2]).isdisjoint([*ids(FILE + b"\n"), *ids(FILE, "monday")][:2])


def test_ids_are_legal_and_none_that_a_server_makes() -> None:
    assert all(ID_PATTERN.match(one) and not Ids("0123abcd").may_be_unmade(one, 0.0) for one in ids(FILE))


def test_ids_do_not_change_between_versions() -> None:
    assert ids(b'{"type":"a"}\n') == ["f5e3fce7bf0914d593f198639bbbc4b98.1"]


def test_values_stay_as_they_stand_in_the_file() -> None:
    assert jobs(FILE)[2] == b'{"id":"mine","type":"b","data":1e400}'


def test_defaults_hold_where_a_line_is_silent() -> None:
    first, second = jobs(b'{"prio":1}\n{}', type="t", prio=5)
    assert (json.loads(first)["prio"], json.loads(second)["prio"]) == (1, 5)
    assert json.loads(first)["type"] == "t"


async def test_all_lines_are_inserted_and_progress_reaches_the_end() -> None:
    progress = Done()
    done = await insert(FILE, accept, progress)
    assert (done.inserted, done.refused, progress.bytes) == (3, 0, len(FILE) - 1)


async def test_a_file_of_many_slices_keeps_the_numbers_of_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insertfile, "SLICE_BYTES", 7)
    lines = lines_of(b"{1}\n{2}\n{3}\n" + b"\n" * 99 + b"{103}")
    assert [await lines.read() for _ in range(3)] == [[(1, b"{1}\n"), (2, b"{2}\n")], [(3, b"{3}\n")], [(103, b"{103}")]]
    assert await lines.read() == []


async def test_refused_and_broken_lines_are_told_and_the_rest_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    def answer(line: Line) -> Any:
        return {"e": {"message": "no", "code": "bad_job"}} if line["m"]["type"] == "b" else line["m"]["id"]

    done = await insert(b"{broken\n[1]\n" + FILE, answer)
    assert (done.inserted, done.refused) == (2, 3)
    assert [line.split(":")[1] for line in sorted(capsys.readouterr().err.splitlines())] == [" line 1", " line 2", " line 6"]


async def test_line_that_no_server_could_answer_by_name_is_told_here(capsys: pytest.CaptureFixture[str]) -> None:
    done = await insert(FILE + b'\n{"data":"\xff"}\n{"data":%b}\nfoo' % (b"[" * 70 + b"]" * 70), accept)
    assert (done.inserted, done.refused) == (3, 3)
    assert sorted(capsys.readouterr().err.splitlines()) == [
        "kqs: line 5: not JSON: invalid UTF-8, or half of a surrogate pair",
        "kqs: line 6: more than 64 levels of arrays and objects",
        "kqs: line 7: not JSON: invalid character (byte 1), got foo",
    ]


async def test_json_lines_tell_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    await insert(b'{"type":"a","id":"x"}\nbroken\n', accept, as_lines=True)
    told = sorted(map(json.loads, capsys.readouterr().out.splitlines()), key=lambda one: one["line"])
    assert told[0] == {"line": 1, "id": "x"}
    assert told[1]["line"] == 2
    assert "error" in told[1]


@pytest.mark.parametrize("code", ["no_space", "unknown_call", "forbidden"])
async def test_server_that_would_refuse_the_others_too_ends_it(code: str) -> None:
    with pytest.raises(CallError, match="no"):
        await insert(FILE, lambda line: {"e": {"message": "no", "code": code}})


async def test_empty_file_is_done_at_once() -> None:
    assert (await insert(b"", accept)).inserted == 0


class LostClient(Client):
    """Never answers; the first call ends because the server stays away."""

    def __init__(self) -> None:
        super().__init__(Address("away", 1))
        self.answers: list[asyncio.Future[Raw]] = []

    async def start(self, *_call: Any, **_settings: Any) -> asyncio.Future[Raw]:
        answer: asyncio.Future[Raw] = asyncio.get_running_loop().create_future()
        if not self.answers:
            self.on_lost("refused")
            self.on_lost("refused again")
            answer.set_exception(ConnectionLostError("away:1 could not be reached again"))
        self.answers.append(answer)
        await asyncio.sleep(0)
        return answer


async def test_server_that_stays_away_ends_it_at_once_and_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    client = LostClient()
    inserter = Inserter(client, lines_of(b"{}\n" * 9), Done(), False)
    with pytest.raises(ConnectionLostError):
        await inserter.run()
    assert len(client.answers) < 9
    assert capsys.readouterr().err == "kqs: the connection to away:1 was lost: refused; trying again for up to 30 s\n"


async def test_lost_connection_inserts_nothing_twice() -> None:
    async with LineServer() as server, Client(server.address) as client:
        inserter = Inserter(client, lines_of(FILE), Done(), False)
        running = asyncio.ensure_future(inserter.run())
        first = await server.got(3)
        server.drop()
        again = (await server.got(6))[3:]
        assert again == first[:3]
        for index in (3, 4, 5):
            server.answer(index, "id")
        await running
    assert inserter.inserted == 3
