"""A new user's path: README's own commands, in its order, in a fresh checkout."""

import os
import re
import shutil
import signal
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import run

import pytest

from tests.support.asking import eventually
from tests.support.require import require
from tests.support.serving import ROOT, Served, free_port, serving

LIMIT_S = 30
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SERVE, INSERT, COMMANDS, HANDLER, SERVE_OWN, INSERT_OWN, KILL, SHOW = range(8)


class User:
    """Somebody who reads README at a prompt in a new checkout; nothing of this test's environment helps him."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self.blocks = [text for _language, text in BLOCK.findall((checkout / "README.md").read_text())]
        self.port = free_port()
        self.activated = ""
        kept = {name: os.environ[name] for name in os.environ if not name.startswith(("PYTHON", "VIRTUAL_ENV", "COVERAGE"))}
        self.environ: Mapping[str, str] = kept | {"KQS_SERVER": f"localhost:{self.port}"}

    def serving(self, block: int) -> AbstractContextManager[Served]:
        return serving(self.checkout, ["bash", "-c", self.blocks[block]], self.environ, SERVER__PORT=str(self.port))

    def types(self, block: int) -> str:
        """Run a block, with this test's port for the usual one; return what it shows. It may activate .venv."""
        text = self.activated + self.blocks[block].replace("14151", str(self.port))
        self.activated = "".join(re.findall(r"^\. .*\n", text, re.MULTILINE)[:1])
        done = run(["bash", "-ec", text], cwd=self.checkout, env=self.environ, capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode == 0, done.stderr
        return done.stdout


def sees(look: Callable[[], str], text: str) -> None:
    """Look again and again until `text` is there."""
    eventually(look, lambda seen: text in seen, LIMIT_S)


@pytest.fixture
def user(tmp_path: Path) -> User:
    listed = run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.splitlines()):
        if (ROOT / name).exists():
            (tmp_path / "kqs" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "kqs" / name)
    return User(tmp_path / "kqs")


@pytest.mark.slow
def test_readme_leads_from_a_checkout_to_a_job_that_survives_kill_9(user: User) -> None:
    require("nc")
    with user.serving(SERVE) as server:
        assert '"s":"end"' in user.types(INSERT)
        sees(server.log.read_text, 'payload = {"a":1}')
        assert "ping" in user.types(COMMANDS)
        os.killpg(server.process.pid, signal.SIGINT)
        server.process.wait(LIMIT_S)
    (user.checkout / "hello.py").write_text(user.blocks[HANDLER])
    with user.serving(SERVE_OWN) as server:
        user.types(INSERT_OWN)
        user.types(KILL)
        assert server.process.wait(LIMIT_S) != 0
    with user.serving(SERVE_OWN) as server:
        sees(server.log.read_text, "hello Ada")
        sees(lambda: user.types(SHOW), "success")
