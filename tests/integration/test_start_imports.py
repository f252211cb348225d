"""What a server imports until it is ready, which is most of its start and of its memory at rest."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.serving import PLAIN_ENVIRON, serving

#: what only some servers need, or only programs; each would take its share of every start
NOT_AT_START = {
    "pydantic": "of programs that use its models",
    "pydantic_core": "of programs that use its models",
    "annotated_types": "of pydantic",
    "crc32c": "has a command and looks up its version: kqs.crc",
    "importlib.metadata": "of packages' versions",
    "email": "of importlib.metadata",
    "argparse": "of commands",
    "rich.console": "of the commands that show tables",
    "motor": "of servers with MongoDB",
    "pymongo": "of servers with MongoDB",
    "re2": "of calls that search in data",
    "json5": "of the commands that read jobs",
    "aiofiles": "of the commands that read jobs",
    "tomlkit": "of the command that writes settings",
    "multiprocessing": "of handlers",
    "kqs.journal.repair": "of the command that repairs",
    "kqs.journal.stopped": "of the commands for a stopped journal",
    "kqs.journal.survey": "of the command that repairs",
    "kqs.minding.keeper": "of a process of its own",
    "kqs.store.mongo": "of servers with MongoDB",
    "kqs.broker.beanstalkd": "of servers with beanstalkd",
    "kqs.wire.beanstalk": "of servers with beanstalkd",
    "kqs.client": "the other end",
    "kqs.library": "of programs",
    "kqs.blocking": "of programs",
    "kqs.testing": "of tests of programs",
    "kqs.outpost": "of workers elsewhere",
    "kqs.conformance": "of trials",
}


def test_a_server_starts_without_what_it_has_no_use_for(tmp_path: Path) -> None:
    command = (sys.executable, "-X", "importtime", "-m", "kqs", "serve")
    with serving(tmp_path, command, PLAIN_ENVIRON) as served:
        assert served.stop() == 0
        told = [line for line in served.log.read_text().splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip() for line in told}
    assert "kqs.daemon" in imported
    assert sorted(imported & NOT_AT_START.keys()) == []
