"""What a program imports with the queue."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

#: fronts of their own: what they import, a program has no use for
NOT_HERE = {"kqs.server", "kqs.daemon", "kqs.outpost", "kqs.cli", "uvloop", "pydantic"}


@pytest.mark.parametrize("module", ["kqs.library", "kqs.library.far", "kqs.testing", "kqs.blocking"])
def test_nothing_of_the_server_is_imported(module: str) -> None:
    program = f"import sys, kqs, {module}; kqs.open, kqs.connect; print(*sys.modules)"
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run([sys.executable, "-c", program], env=unmeasured, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert module in loaded
    assert NOT_HERE.isdisjoint(loaded)
