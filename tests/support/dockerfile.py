"""Builds a Dockerfile in a plain folder, for machines without a container engine.

Each stage is built in the same folder, so that paths inside a stage mean the same in the next; absolute paths that the
Dockerfile owns (`OWNED`) are moved below it. USER, --chown and the base image's file system are not imitated.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

#: what the Dockerfile may write to
OWNED = ("/opt", "/src", "/state", "/var/lib/kqs", "/etc/kqs")
_OWNED_PATH = re.compile(rf"(?<![\w./$-])({'|'.join(OWNED)})(?![\w-])")


def instructions(text: str) -> list[tuple[str, str]]:
    """Return (keyword, rest) for each instruction, comments dropped and continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(keyword, rest) for line in joined.splitlines() if line for keyword, rest in [line.split(" ", 1)]]


class Image:
    """The last stage, built. environ, workdir, argv: how its command is to be run."""

    def __init__(self, dockerfile: Path, folder: Path) -> None:
        self._context = dockerfile.parent
        self._folder = folder
        self._root = folder / "root"
        self._stage = ""
        self._base = folder / "base"
        self._base.mkdir()
        (self._base / "python").symlink_to(sys._base_executable)  # type: ignore[attr-defined]  # that of a venv, which has no public name
        self.settings: dict[str, str] = {}
        for keyword, rest in instructions(dockerfile.read_text()):
            getattr(self, f"_do_{keyword.lower()}", self._keep)(keyword, rest)

    @property
    def argv(self) -> list[str]:
        """ENTRYPOINT and CMD, which must both be in exec form."""
        words: list[str] = json.loads(self.settings["ENTRYPOINT"]) + json.loads(self._inside(self.settings["CMD"]))
        program = shutil.which(words[0], path=self.environ["PATH"])
        assert program is not None, words[0]
        return [program, *words[1:]]

    def _begin(self, name: str) -> None:
        if self._stage:
            shutil.move(self._root, self._folder / self._stage)
        self._stage = name
        self._root.mkdir(parents=True)
        self.workdir = self._root
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("KQS_", "VIRTUAL_ENV", "PYTHON"))}
        self.environ = kept | {"PATH": f"{self._base}:{kept['PATH']}"}

    def _inside(self, text: str) -> str:
        return _OWNED_PATH.sub(lambda match: f"{self._root}{match[1]}", text)

    def _keep(self, keyword: str, rest: str) -> None:
        self.settings[keyword] = rest

    def _do_from(self, _keyword: str, rest: str) -> None:
        self._begin(rest.split(" AS ")[1] if " AS " in rest else "last")

    def _do_workdir(self, _keyword: str, rest: str) -> None:
        self.workdir = Path(self._inside(rest))
        self.workdir.mkdir(parents=True, exist_ok=True)

    def _do_env(self, _keyword: str, rest: str) -> None:
        for name, value in (word.split("=", 1) for word in shlex.split(rest)):
            self.environ[name] = self._inside(value).replace("$PATH", self.environ["PATH"])

    def _do_run(self, _keyword: str, rest: str) -> None:
        subprocess.run(["sh", "-ec", self._inside(rest)], cwd=self.workdir, env=self.environ, check=True)

    def _do_copy(self, _keyword: str, rest: str) -> None:
        words = shlex.split(rest)
        flags = [word for word in words if word.startswith("--")]
        *sources, target = words[len(flags) :]
        stage = next((flag.removeprefix("--from=") for flag in flags if flag.startswith("--from=")), None)
        destination = self.workdir / self._inside(target)
        for source in sources:
            origin = self._context / source if stage is None else self._folder / stage / source.lstrip("/")
            _copy(origin, destination / origin.name if target.endswith("/") else destination)


def _copy(origin: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    if origin.is_dir():
        shutil.copytree(origin, destination, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(origin, destination)
