"""docs/library.md: its examples run as they stand, and its tables name what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import kqs

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/library.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "success {'width': 70}\n"), (1, "1\n"), (2, "5000\nclosed with the queue, with 0 left\n"), (3, "{'width': 70}\n")],
)
def test_an_example_runs_as_it_stands(tmp_path: Path, number: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLES[number]], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


def test_what_it_names_is_there() -> None:
    named = set(re.findall(r"queue\.([a-z_]+)\(", PAGE))
    assert [name for name in sorted(named) if not hasattr(kqs.Queue, name)] == []
    assert [name for name in sorted(set(re.findall(r"await run\.([a-z_]+)\(", PAGE))) if not hasattr(kqs.TakenRun, name)] == []
    assert [
        name
        for name in sorted(set(re.findall(r"\bkqs\.([A-Za-z]+)\b", PAGE)) - {"blocking", "bulk", "testing", "toml"})
        if name not in kqs.__all__
    ] == []


def test_its_examples_fit_their_types(tmp_path: Path) -> None:
    good = (
        "import kqs.blocking\nfrom pydantic import BaseModel\nclass A(BaseModel):\n    n: int\nasync def f(a: A) -> None: ...\n"
    )
    good += "async def g(a: A, job: kqs.JobContext) -> int: return 1\n"
    good += "async def main(queue: kqs.Queue) -> None:\n"
    good += (
        "    await queue.add_job(f, A(n=1), prio='high')\n    await queue.add_job(g, A(n=1))\n    await queue.add_job('x', 3)\n"
    )
    bad = "    await queue.add_job(f, 'A')\n    await queue.add_job(g, 1)\n    await queue.add_job('x', 3, ttr='1')\n"
    bad += "def face(queue: kqs.blocking.Queue) -> None:\n    n: int = queue.add_job(h, A(n=1)).result(1)\n"
    bad += "    queue.add_job(f, A(n=1))\n"
    bad += "    queue.add_job(f, 'A')\n    queue.run_jobs('3')\n    queue.cancel(types='x')\n"
    bad += "def h(a: A) -> int: return a.n\nasync def results(queue: kqs.Queue) -> None:\n"
    bad += "    job = await queue.add_job(g, A(n=1))\n"
    bad += "    n: int = await job.result(1)\n    s: str = await job.result(1)\n"
    bad += "    t: str = await (await queue.add_job(h, A(n=1))).result(1)\n"
    file = tmp_path / "typed.py"
    told = []
    for text in (good, good + bad):
        file.write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache"), str(file)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        told.append(sorted({int(line) for line in re.findall(r"typed\.py:(\d+): error", done.stdout)}))
    assert told == [[], [11, 12, 13, 17, 18, 19, 24, 25]]
