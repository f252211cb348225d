"""docs/client.md: its example runs as it stands, and its table names what there is."""

import inspect
import json
import re
import sys
from pathlib import Path
from subprocess import run

import pytest

from kqs.client import Client, connect
from tests.support.serving import ROOT, SERVE_ENVIRON, serving

PAGE = (ROOT / "docs/client.md").read_text()


CALLS = {
    "connect",
    "batch",
    "open_batch",
    "close_batch",
    "insert",
    "wait_job",
    "insert_many",
    "call",
    "start",
    "reserve",
    "work",
    "touch",
    "touch_many",
} | {
    "finish",
    "fail",
    "again",
    "finish_many",
    "release",
    "suspend",
    "resume",
    "limit",
    "schedule",
    "unschedule",
    "schedules",
    "fire",
    "suspend_schedule",
    "resume_schedule",
    "configure",
    "subscribe",
    "unsubscribe",
    "cancel",
    "retry",
    "delete",
    "purge",
    "jobs",
    "explain",
    "types",
    "workers",
}
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("number", "said"), [(0, "'type': 'echo'"), (1, "")])
def test_an_example_runs_as_it_stands(tmp_path: Path, number: int, said: str) -> None:
    example = EXAMPLES[number]
    with serving(tmp_path) as served:
        example = example.replace("14151", str(served.port))
        done = run([sys.executable, "-c", example], env=SERVE_ENVIRON, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert said in done.stdout
        if number == 1:
            jobs = json.loads(served.ask('{"id":1,"n":"jobs","m":{"state":"success"}}')[0])["m"]
            assert [(job["type"], job["result"]) for job in jobs] == [("thumbnail", {"done": 80})]


def test_every_call_of_the_table_takes_what_it_says() -> None:
    rows = re.findall(r"^\| `(?:(?:await )?client\.)?(\w+)\((.*?)\)`", PAGE, re.MULTILINE)
    assert {name for name, _ in rows} == CALLS
    for name, arguments in rows:
        known = inspect.signature(connect if name == "connect" else getattr(Client, name)).parameters
        named = re.findall(r"(?:^|, )(\w+)(?:=|,|$)", re.sub(r"\[.*\]", "jobs", arguments))
        assert set(named) <= set(known), name
