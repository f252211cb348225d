from collections.abc import Callable
from pathlib import Path
from subprocess import run
from typing import Any

import msgspec
import pytest

from tests.support.require import missing, require
from tests.support.serving import Served, serving

HERE = Path(__file__).parent
MODULES = HERE.parents[1] / ".cache/interop/node_modules"

Ask = Callable[[str], Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with serving(tmp_path_factory.mktemp("interop")) as served:
        yield served


@pytest.fixture
def ask(server: Served) -> Ask:
    """Run one scenario of client.js against the server; return the JSON it prints."""
    node = require("node")
    if not MODULES.is_dir():
        missing("npm")

    def scenario(name: str) -> Any:
        done = run([node, HERE / "client.js", MODULES, str(server.port), name], capture_output=True, timeout=60, text=True)
        assert done.returncode == 0, done.stderr
        return msgspec.json.decode(done.stdout)

    return scenario
