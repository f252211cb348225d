"""A real `kqs serve` over beanstalkds, with jobs that leave a trace of every run."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.asking import ask
from tests.support.beanstalkd import Beanstalkd
from tests.support.serving import Served

HANDLERS = """
import asyncio
import kqs

@kqs.handler("work", ttr=5)
async def work(data):
    await asyncio.sleep(0.01)
    with open("ran", "a") as file:
        file.write(f"{data}\\n")
    return data
"""


def configured(folder: Path, *servers: Beanstalkd, **more: str) -> dict[str, str]:
    """Write the handlers into `folder`; return the settings of a server that uses them and these beanstalkds."""
    (folder / "jobs.py").write_text(HANDLERS)
    return {
        "BROKER__KIND": "beanstalkd",
        "BROKER__SERVERS": json.dumps([server.address for server in servers]),
        "WORKER__MODULES": '["jobs"]',
        "WORKER__CONCURRENCY": "10",
        **more,
    }


def insert(server: Served, numbers: range) -> None:
    """Insert jobs that are not alike, so that those which meet no lane are put: the others would be held for lanes."""
    ask(server, "insert", [{"type": "work", "data": number, "prio": number % 2} for number in numbers])


def assert_all_ran(server: Served, folder: Path, numbers: range) -> None:
    """Every job ended well, by one accepted end each."""
    seen = ask(server, "stats")
    assert (seen["jobs_success"], seen["runs_done"], seen["jobs_fail"]) == (len(numbers), len(numbers), 0)
    assert sorted(map(int, (folder / "ran").read_text().split())) == list(numbers)
