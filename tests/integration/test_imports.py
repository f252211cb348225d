"""What a server with default settings has imported, by the time it runs jobs: each module costs its start and its memory."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.serving import PLAIN_ENVIRON, serving

HANDLER = """
import sys
import kqs

@kqs.handler("modules")
async def modules(data):
    return sorted(sys.modules)
"""
#: parts that other settings need, and fronts of their own
NOT_OF_KQS = {
    "kqs.blocking",
    "kqs.broker.beanstalkd",
    "kqs.client",
    "kqs.conformance",
    "kqs.journal.repair",
    "kqs.journal.stopped",
    "kqs.journal.survey",
    "kqs.library",
    "kqs.minding.keeper",
    "kqs.outpost",
    "kqs.store.mongo",
    "kqs.testing",
}
#: what only these, or handlers, or some calls need of others
NOT_OF_OTHERS = {"motor", "multiprocessing", "pydantic", "pydantic_core", "pymongo", "re2", "rich", "tomlkit"}


def test_a_default_server_imports_nothing_that_only_others_need(tmp_path: Path) -> None:
    (tmp_path / "tells.py").write_text(HANDLER)
    with serving(tmp_path, environ=PLAIN_ENVIRON, WORKER__MODULES='["kqs.builtin", "tells"]') as server:
        *_, line = server.ask('{"n":"insert","m":{"type":"modules","wait":30}}')
    loaded = set(json.loads(line)["m"]["result"])
    assert "kqs.daemon" in loaded
    assert loaded & (NOT_OF_KQS | NOT_OF_OTHERS) == set()
