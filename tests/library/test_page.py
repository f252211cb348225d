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
    [
        (0, "success {'width': 70}\n"),
        (1, "2 runs: 1 to Ada\n"),
        (2, "2 of 2 photos\n"),
        (3, "5000\nclosed with the queue, with 0 left\n"),
        (4, "{'width': 70}\n"),
    ],
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
