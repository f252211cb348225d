"""Tools that some tests need: missing, they skip; named in KQS_REQUIRE (as CI does), they fail."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def require(tool: str) -> str:
    """Return the path of the program `tool`, or end the test."""
    return shutil.which(tool) or missing(tool)


def missing(tool: str) -> NoReturn:
    reason = f"{tool} is not installed"
    if tool in os.environ.get("KQS_REQUIRE", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)
