"""A command that is started with standard descriptors closed does what it does otherwise."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

from tests.support.asking import ask
from tests.support.serving import SERVE, SERVE_ENVIRON, serving

CLOSED = [closed for count in (1, 2, 3) for closed in combinations((0, 1, 2), count)]
KQS = (sys.executable, "-m", "kqs")


def closing(closed: tuple[int, ...], command: tuple[str, ...]) -> tuple[str, ...]:
    """Return a command that closes descriptors and becomes `command`."""
    return ("sh", "-c", 'exec "$@" ' + " ".join(f"{number}>&-" for number in closed), "sh", *command)


@pytest.mark.parametrize("closed", CLOSED, ids=str)
def test_a_server_opens_nothing_of_its_own_under_their_numbers(tmp_path: Path, closed: tuple[int, ...]) -> None:
    with serving(tmp_path, closing(closed, SERVE)) as server:
        assert ask(server, "ping") == "pong"
        opened = {number: Path(f"/proc/{server.process.pid}/fd/{number}").readlink() for number in closed}
        assert set(opened.values()) == {Path("/dev/null")}
        assert server.stop() == 0


@pytest.mark.parametrize("closed", [(1, 2), (0, 1, 2)], ids=str)
def test_a_client_s_command_has_its_exit_code(tmp_path: Path, closed: tuple[int, ...]) -> None:
    with serving(tmp_path) as server:
        address = ("--server", f"127.0.0.1:{server.port}")
        codes = [
            subprocess.run(closing(closed, (*KQS, *words)), env=SERVE_ENVIRON, timeout=60, check=False).returncode
            for words in (("insert", "ping", *address), ("call", "pnig", *address), ("stats", "--server", "127.0.0.1:1"))
        ]
    assert codes == [0, 1, 69]
