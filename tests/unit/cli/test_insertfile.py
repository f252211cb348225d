import asyncio
import io
import json

import pytest

from kqs.cli import insertfile
from kqs.cli.insertfile import JobLines
from kqs.cli.inserting import Inserter
from kqs.client import Address, Client, ConnectionLostError
from kqs.errors import CallError
from kqs.ids import ID_PATTERN, Ids
from tests.support.line_server import LineServer

FILE = b'{"type":"a"}\n\n{"type":"a"}\n{"type":"b","id":"mine","data":1e400}'


class Done:
    """A progress that only counts."""

    def __init__(self):
        self.bytes = 0

    def advance(self, count):
        self.bytes += count


def jobs(content, run_name="", **defaults):
    lines = JobLines(io.BytesIO(content), defaults, run_name)
    return [lines.job(number, line) for number, line in asyncio.run(lines.read())]


def ids(content, run_name=""):
    return [json.loads(job)["id"] for job in jobs(content, run_name)]


async def insert(content, answer, progress=None, as_lines=False):
    async with LineServer(answer) as server, Client(server.address) as client:
        inserter = Inserter(client, JobLines(io.BytesIO(content), {}, ""), progress or Done(), as_lines)
        await inserter.run()
    return inserter


def accept(line):
    return line["m"]["id"]


def test_each_line_has_the_same_id_every_time():
    assert ids(FILE) == ids(FILE)
    assert len(set(ids(FILE))) == 3


def test_own_id_of_a_line_is_kept():
    assert ids(FILE)[2] == "mine"


def test_an_id_of_null_is_none_so_that_the_file_can_be_repeated():
    content = b'{"type":"a","id":null}\n{"type":"a", "id" : null }'
    assert ids(content) == ids(content)
    assert all(map(ID_PATTERN.fullmatch, ids(content)))


def test_other_files_and_other_runs_are_other_jobs():
    assert set(ids(FILE)[:2]).isdisjoint([*ids(FILE + b"\n"), *ids(FILE, "monday")][:2])


def test_ids_are_legal_and_none_that_a_server_makes():
    assert all(ID_PATTERN.match(one) and not Ids("0123abcd").may_be_unmade(one, 0.0) for one in ids(FILE))


def test_ids_do_not_change_between_versions():
    assert ids(b'{"type":"a"}\n') == ["f5e3fce7bf0914d593f198639bbbc4b98.1"]


def test_values_stay_as_they_stand_in_the_file():
    assert jobs(FILE)[2] == b'{"id":"mine","type":"b","data":1e400}'


def test_defaults_hold_where_a_line_is_silent():
    first, second = jobs(b'{"prio":1}\n{}', type="t", prio=5)
    assert (json.loads(first)["prio"], json.loads(second)["prio"]) == (1, 5)
    assert json.loads(first)["type"] == "t"


async def test_all_lines_are_inserted_and_progress_reaches_the_end():
    progress = Done()
    done = await insert(FILE, accept, progress)
    assert (done.inserted, done.refused, progress.bytes) == (3, 0, len(FILE) - 1)


async def test_a_file_of_many_slices_keeps_the_numbers_of_its_lines(monkeypatch):
    monkeypatch.setattr(insertfile, "SLICE_BYTES", 8)
    lines = JobLines(io.BytesIO(b"{1}\n{2}\n{3}\n" + b"\n" * 99 + b"{103}"), {}, "")
    assert [await lines.read() for _ in range(3)] == [[(1, b"{1}\n"), (2, b"{2}\n")], [(3, b"{3}\n")], [(103, b"{103}")]]
    assert await lines.read() == []


async def test_refused_and_broken_lines_are_told_and_the_rest_goes_on(capsys):
    def answer(line):
        return {"e": {"message": "no", "code": "bad_job"}} if line["m"]["type"] == "b" else line["m"]["id"]

    done = await insert(b"{broken\n[1]\n" + FILE, answer)
    assert (done.inserted, done.refused) == (2, 3)
    assert [line.split(":")[1] for line in sorted(capsys.readouterr().err.splitlines())] == [" line 1", " line 2", " line 6"]


async def test_line_that_no_server_could_answer_by_name_is_told_here(capsys):
    done = await insert(FILE + b'\n{"data":"\xff"}\n{"data":%b}\nfoo' % (b"[" * 70 + b"]" * 70), accept)
    assert (done.inserted, done.refused) == (3, 3)
    assert sorted(capsys.readouterr().err.splitlines()) == [
        "kqs: line 5: not JSON: invalid UTF-8, or half of a surrogate pair",
        "kqs: line 6: more than 64 levels of arrays and objects",
        "kqs: line 7: not JSON: invalid character (byte 1), got foo",
    ]


async def test_json_lines_tell_every_line(capsys):
    await insert(b'{"type":"a","id":"x"}\nbroken\n', accept, as_lines=True)
    told = sorted(map(json.loads, capsys.readouterr().out.splitlines()), key=lambda one: one["line"])
    assert told[0] == {"line": 1, "id": "x"}
    assert told[1]["line"] == 2
    assert "error" in told[1]


@pytest.mark.parametrize("code", ["no_space", "unknown_call", "forbidden"])
async def test_server_that_would_refuse_the_others_too_ends_it(code):
    with pytest.raises(CallError, match="no"):
        await insert(FILE, lambda line: {"e": {"message": "no", "code": code}})


async def test_empty_file_is_done_at_once():
    assert (await insert(b"", accept)).inserted == 0


class LostClient:
    """Never answers; the first call ends because the server stays away."""

    address = Address("away", 1)

    def __init__(self):
        self.answers = []

    async def start(self, *_call, **_settings):
        answer = asyncio.get_running_loop().create_future()
        if not self.answers:
            self.on_lost("refused")
            self.on_lost("refused again")
            answer.set_exception(ConnectionLostError("away:1 could not be reached again"))
        self.answers.append(answer)
        await asyncio.sleep(0)
        return answer


async def test_server_that_stays_away_ends_it_at_once_and_is_told_once(capsys):
    client = LostClient()
    inserter = Inserter(client, JobLines(io.BytesIO(b"{}\n" * 9), {}, ""), Done(), False)
    with pytest.raises(ConnectionLostError):
        await inserter.run()
    assert len(client.answers) < 9
    assert capsys.readouterr().err == "kqs: the connection to away:1 was lost: refused; trying again for up to 30 s\n"


async def test_lost_connection_inserts_nothing_twice():
    async with LineServer() as server, Client(server.address) as client:
        inserter = Inserter(client, JobLines(io.BytesIO(FILE), {}, ""), Done(), False)
        running = asyncio.ensure_future(inserter.run())
        first = await server.got(3)
        server.drop()
        again = (await server.got(6))[3:]
        assert again == first[:3]
        for index in (3, 4, 5):
            server.answer(index, "id")
        await running
    assert inserter.inserted == 3
