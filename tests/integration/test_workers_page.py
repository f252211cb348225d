"""docs/workers.md does what it says: its example runs as it stands, its options are those of the command."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from kqs.cli.work import work_command
from tests.integration.test_handlers_page import on_this_python
from tests.support.asking import eventually
from tests.support.serving import ROOT, SERVE_ENVIRON, serving

PAGE = (ROOT / "docs" / "workers.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_example_runs_as_it_stands(tmp_path: Path) -> None:
    blocks = BLOCK.findall(PAGE)
    (module,) = (text for language, text in blocks if language == "python")
    serve, work, insert, show = (line for language, text in blocks if language == "sh" for line in text.splitlines())
    (tmp_path / "shop.py").write_text(module)
    setting, *serve_command = shlex.split(serve.removesuffix("&"))
    assert setting == "KQS_WORKER__CONCURRENCY=0"
    with serving(tmp_path, on_this_python(serve_command), WORKER__CONCURRENCY="0") as served:
        work_here = work.removesuffix("&").replace("14151", str(served.port))

        def run(line: str) -> str:
            environ = SERVE_ENVIRON | {"KQS_SERVER": f"127.0.0.1:{served.port}"}
            return subprocess.check_output(on_this_python(shlex.split(line)), cwd=tmp_path, env=environ, text=True, timeout=60)

        with serving(tmp_path, on_this_python(shlex.split(work_here))) as worker:
            assert run(insert).strip() == "invoice-17"
            shown = eventually(lambda: run(show), lambda text: "success" in text)
            assert "packer-1" in shown
            assert worker.stop() == 0


def test_the_table_has_every_option() -> None:
    options = {name for parameter in work_command.params for name in parameter.opts if name.startswith("--")}
    assert set(re.findall(r"--[a-z-]+", PAGE[PAGE.index("| `MODULE") : PAGE.index("`[worker] types`")])) == options - {"--help"}
