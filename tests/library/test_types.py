"""What type checkers say of programs that use the library, mypy and pyright alike: good lines pass, bad ones are refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("client", "library", "testing")
#: each line that is marked must be refused, and no other
LINES = """
import kqs.blocking
import kqs.testing
from pydantic import BaseModel

class A(BaseModel):
    n: int

async def f(a: A) -> None: ...
async def g(a: A, job: kqs.JobContext) -> int: return 1
def h(a: A) -> int: return a.n

async def main(queue: kqs.Queue) -> None:
    await queue.add_job(f, A(n=1), prio="high")
    await queue.add_job(g, A(n=1))
    await queue.add_job("x", 3)
    await queue.add_job(f, "A")  # refused
    await queue.add_job(g, 1)  # refused
    await queue.add_job("x", 3, ttr="1")  # refused

def face(queue: kqs.blocking.Queue) -> None:
    n: int = queue.add_job(h, A(n=1)).result(1)
    queue.add_job(f, A(n=1))
    queue.add_job(f, "A")  # refused
    queue.run_jobs("3")  # refused
    queue.cancel(types="x")  # refused

async def results(queue: kqs.Queue) -> None:
    job = await queue.add_job(g, A(n=1))
    n: int = await job.result(1)
    s: str = await job.result(1)  # refused
    t: str = await (await queue.add_job(h, A(n=1))).result(1)  # refused

class Shelf(kqs.BulkStore):
    async def set(self, key: str, data: bytes) -> None: ...
    async def get(self, key: str) -> bytes | None: ...
    async def delete(self, key: str) -> None: ...

class Half(kqs.BulkStore):
    async def set(self, key: str, data: bytes) -> None: ...

kqs.open(":memory:", concurrency=1, bulk=Shelf(), types={"x": {"ttr": 1}})
kqs.connect("localhost:1", bulk=kqs.FolderBulk("bulk", over_bytes=1), timeout_s=1)
kqs.blocking.open("folder", bulk=Shelf())
kqs.testing.open(at=1.0, bulk=Shelf())
kqs.open(":memory:", bulk="folder")  # refused
kqs.connect(bulk="folder")  # refused
kqs.blocking.connect(bulk="folder")  # refused
kqs.open(":memory:", bulk=Half())  # refused
"""
REFUSED = [number for number, line in enumerate(LINES.splitlines(), 1) if line.endswith("# refused")]


def mypy(*files: Path) -> dict[Path, list[int]]:
    """Return in which lines mypy, strict, finds errors."""
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache"), *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = re.findall(r"(\w+\.py):(\d+): error", done.stdout)
    return {file: sorted({int(line) for name, line in found if name == file.name}) for file in files}


def pyright(*files: Path, mode: str = "strict") -> dict[Path, list[int]]:
    """Return in which lines pyright finds errors; that variables of a trial are not used is none."""
    folder = files[0].parent
    unused = {"reportUnusedVariable": False, "reportUnusedImport": False}
    (folder / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": mode, "pythonVersion": "3.11", **unused}))
    command = [
        sys.executable,
        "-m",
        "basedpyright",
        "--outputjson",
        "--project",
        str(folder),
        "--pythonpath",
        sys.executable,
        *map(str, files),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["summary"]["filesAnalyzed"] == len(files)
    found = [(Path(one["file"]), one["range"]["start"]["line"] + 1) for one in told["generalDiagnostics"]]
    return {file: sorted({line for name, line in found if name == file}) for file in files}


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_types_tell_good_calls_from_bad_ones(tmp_path: Path, checker: Callable[..., dict[Path, list[int]]]) -> None:
    file = tmp_path / "typed.py"
    file.write_text(LINES)
    assert checker(file) == {file: REFUSED}


def test_examples_fit_their_types(tmp_path: Path) -> None:
    files = []
    for page in PAGES:
        blocks = re.findall(r"```python\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(), re.DOTALL)
        for number, block in enumerate(blocks):
            if "import " in block:  # a program, and not some lines of one
                files.append(tmp_path / f"{page}_{number}.py")
                files[-1].write_text(block)
    assert len(files) >= 6
    assert pyright(*files, mode="standard") == {file: [] for file in files}
