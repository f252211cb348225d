"""The programs in examples/, as a command each: built where they must be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import run
from typing import NamedTuple

from tests.support.require import require
from tests.support.serving import ROOT

EXAMPLES = ROOT / "examples"
_BUILD_WITHIN_S = 240
#: of programs that run for a few seconds: no time is spent on code that would be faster for long
JAVA_OPTIONS = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
JAVAC_OPTIONS = [f"-J{option}" for option in JAVA_OPTIONS]


class Example(NamedTuple):
    """The commands of one language, before HOST PORT, and HOST PORT TYPE."""

    worker: Sequence[str]
    producer: Sequence[str]


def _of_shell(_folder: Path) -> Example:
    for tool in ("nc", "jq"):
        require(tool)
    return Example(["sh", str(EXAMPLES / "worker.sh")], ["sh", str(EXAMPLES / "producer.sh")])


def _of_node(_folder: Path) -> Example:
    node = require("node")
    return Example([node, str(EXAMPLES / "worker.js")], [node, str(EXAMPLES / "producer.js")])


def _of_python(_folder: Path) -> Example:
    # none of this project's packages, to show that none is needed
    python = ["/usr/bin/env", "python3", "-I", "-S"]
    return Example([*python, str(EXAMPLES / "worker.py")], [*python, str(EXAMPLES / "producer.py")])


def _of_go(folder: Path) -> Example:
    go = require("go")
    for name in ("worker", "producer"):
        run(
            [go, "build", "-o", folder / name, f"{name}.go", "connection.go"], cwd=EXAMPLES, check=True, timeout=_BUILD_WITHIN_S
        )
    return Example([str(folder / "worker")], [str(folder / "producer")])


def _of_java(folder: Path) -> Example:
    javac, java = require("javac"), require("java")
    run([javac, *JAVAC_OPTIONS, "-d", folder, *EXAMPLES.glob("*.java")], check=True, timeout=_BUILD_WITHIN_S)
    command = [java, *JAVA_OPTIONS, "-cp", str(folder)]
    return Example([*command, "Worker"], [*command, "Producer"])


#: language -> what makes its commands in a folder, or ends the test where a tool is missing
LANGUAGES: dict[str, Callable[[Path], Example]] = {
    "shell": _of_shell,
    "node": _of_node,
    "python": _of_python,
    "go": _of_go,
    "java": _of_java,
}
