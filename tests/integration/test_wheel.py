"""The wheel, installed into an environment without the checkout, runs the first example of each page that has one in Python."""

from __future__ import annotations

import json
import os
import re
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess, run

import pytest

import kqs.blocking
from tests.support.serving import ROOT, serving

#: nothing of the checkout, or of how these tests are run
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV", "KQS_", "VIRTUAL_ENV"))}
#: pages whose first example is a module of handlers: a job for it, and what becomes of that
HANDLERS: Mapping[str, tuple[str, object, object]] = {
    "README.md": ("hello", {"name": "Ada"}, {"greeted": "Ada"}),
    "docs/handlers.md": ("greet", {"name": "Ada"}, "hello Ada"),
    "docs/workers.md": ("invoice", {"number": 7}, {"number": 7, "attempt": 1}),
}
#: pages whose first example is a program: what it says
PROGRAMS = {
    "docs/library.md": "success {'width': 70}",
    "docs/testing.md": "reminded ada",
    "docs/client.md": "'type': 'echo'",
}
#: a page whose example asks for a database
LEFT_OUT = {"docs/operations.md"}


def first_example(page: str) -> str:
    found = re.search(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def done(*command: str | Path, cwd: Path) -> CompletedProcess[str]:
    finished = run([*command], cwd=cwd, env=ENVIRON, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of an environment with the wheel, and what the locks have installed for it."""
    folder = tmp_path_factory.mktemp("wheel")
    done(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    done(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    python = folder / "env/bin/python"
    done(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--no-compile", wheel, cwd=folder
    )
    where = done(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout.strip()
    (Path(where) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    found = done(python, "-c", "import kqs; print(kqs.__file__)", cwd=folder).stdout
    assert found.startswith(where)
    return python


def test_every_page_with_an_example_is_tried() -> None:
    pages = [path for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")] if "\n```python\n" in path.read_text()]
    assert {path.relative_to(ROOT).as_posix() for path in pages} == {*HANDLERS, *PROGRAMS, *LEFT_OUT}


@pytest.mark.slow
def test_the_first_examples_run(python: Path, tmp_path: Path) -> None:
    names = [f"example_{number}" for number in range(len(HANDLERS))]
    for name, page in zip(names, HANDLERS, strict=True):
        (tmp_path / f"{name}.py").write_text(first_example(page))
    modules = json.dumps(["kqs.builtin", *names])
    with serving(tmp_path, [str(python), "-m", "kqs", "serve"], ENVIRON, WORKER__MODULES=modules) as served:
        with kqs.blocking.connect(f"127.0.0.1:{served.port}") as queue:
            jobs = [(queue.add_job(type_, data), result) for type_, data, result in HANDLERS.values()]
            assert [job.wait(20).result for job, _ in jobs] == [result for _, result in jobs]
        for page, said in PROGRAMS.items():
            example = first_example(page).replace("14151", str(served.port))
            assert said in done(python, "-c", example, cwd=tmp_path).stdout
