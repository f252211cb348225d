from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kqs.minding import tree


@pytest.fixture
def family() -> Iterator[tuple[int, int]]:
    """A process and its child."""
    with subprocess.Popen(["sh", "-c", "sleep 600 >&- & echo $!; wait"], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        yield parent.pid, child
        os.kill(child, signal.SIGKILL)


def test_all_that_has_come_of_a_process_is_found(family: tuple[int, int]) -> None:
    parent, child = family
    assert tree.children(parent) == [child]
    assert {parent, child} <= set(tree.descendants(os.getpid()))


def test_it_is_found_where_the_kernel_keeps_no_lists_of_children(family: tuple[int, int]) -> None:
    parent, child = family
    assert tree._children_among_all(parent) == [child]


def test_without_such_lists_all_processes_are_looked_at(family: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    parent, child = family

    def refuse(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(tree, "open", refuse, raising=False)
    monkeypatch.setattr(tree, "_children_among_all", {parent: [child]}.get)
    assert tree.children(parent) == [child]


def test_a_process_that_is_gone_has_no_children() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert tree.children(gone.pid) == []


def test_helper_processes_load_nothing_of_the_servers() -> None:
    """What is loaded stands in the memory of each, and takes its time at the first command."""
    package = Path(tree.__file__).parents[1]
    look = (
        "import sys, types; kqs = sys.modules['kqs'] = types.ModuleType('kqs'); kqs.__path__ = [sys.argv[1]]\n"
        "import kqs.minding.keeper\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules} & set(sys.argv[2].split())))"
    )
    unwanted = "msgspec pydantic structlog uvloop asyncio subprocess inspect pathlib logging"
    argv = [sys.executable, "-I", "-S", "-c", look, str(package), unwanted]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "\n"
