import io
from typing import Any

import pytest

from kqs.cli import measures
from kqs.cli.bench import MEASURES, _port_told, _rounded
from kqs.errors import CallError, StartupError
from tests.support.line_server import Line, LineServer


class FakeKqs:
    """Answers like a server that runs every job at once."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, line: Line) -> Any:
        return getattr(self, line["n"])(line["m"])

    def echo(self, arg: object) -> object:
        return arg

    def insert(self, job: object) -> str:
        self.done += 1
        return "id"

    def stats(self, _arg: object) -> dict[str, int]:
        return {"runs_done": self.done, "journal_unfed_records": 0}

    def job(self, _id: object) -> dict[str, object]:
        return {"state": "success", "runs": [{"started_at": 2e9}]}


@pytest.mark.parametrize("name", MEASURES)
async def test_each_measure_gives_figures(name: str) -> None:
    async with LineServer(FakeKqs()) as server:
        figures = await getattr(measures, name)(server.address, 16)
    assert figures
    assert all(figure.value >= 0 and figure.unit for figure in figures)


async def test_refused_call_ends_the_measure() -> None:
    async with LineServer(lambda line: {"e": {"message": "no", "code": "busy"}}) as server:
        with pytest.raises(CallError):
            await measures.echo(server.address, 16)


def test_port_is_read_from_the_log() -> None:
    assert _port_told(io.StringIO('noise\n{"event":"listening","port":7}\n')) == 7


def test_server_that_does_not_start_is_told() -> None:
    with pytest.raises(StartupError, match="kqs: no space"):
        _port_told(io.StringIO("kqs: no space\n"))


def test_figures_are_rounded_to_what_they_mean() -> None:
    assert [_rounded(value) for value in (123456.7, 0.2345)] == ["123,457", "0.234"]
