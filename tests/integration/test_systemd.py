"""deploy/kqs.service: what systemd makes of it, and its own command line run as it would run it."""

import shlex
import shutil
import sys
from collections.abc import Mapping
from configparser import RawConfigParser
from pathlib import Path
from subprocess import CompletedProcess, run

import pytest

from kqs.errors import ExitCode
from tests.support.require import require
from tests.support.serving import ROOT, SERVE, SERVE_ENVIRON, serving

UNIT = ROOT / "deploy/kqs.service"
BINARY = "/opt/kqs/bin/kqs"


@pytest.fixture(scope="module")
def unit() -> Mapping[str, Mapping[str, str]]:
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # as its documentation has it
    parser.read(UNIT)
    return parser


@pytest.fixture(scope="module")
def service(unit: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    return unit["Service"]


def analyze(*arguments: str | Path) -> CompletedProcess[str]:
    return run([require("systemd-analyze"), *arguments], capture_output=True, text=True, timeout=60)


def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    binary, unit = tmp_path / "kqs", tmp_path / "kqs.service"
    shutil.copy(sys.executable, binary)
    unit.write_text(UNIT.read_text().replace(BINARY, str(binary)))
    done = analyze("verify", "--man=no", unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_exposure_is_at_most_one_point_one() -> None:
    done = analyze("security", "--offline=true", "--threshold=11", "--no-pager", UNIT)
    assert done.returncode == 0, done.stdout


def test_what_is_over_some_time_is_tried_again_until_then(unit: Mapping[str, Mapping[str, str]]) -> None:
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert unit["Service"]["Restart"] == "on-failure"
    lasting = {int(code) for code in unit["Service"]["RestartPreventExitStatus"].split()}
    assert lasting == {ExitCode.USAGE, ExitCode.DATA_DAMAGED, ExitCode.CONFIG}


def test_the_journal_lies_in_the_state_directory_of_a_user_that_is_not_root(service: Mapping[str, str]) -> None:
    assert service["DynamicUser"] == "yes"
    assert f"KQS_JOURNAL__DIR=%S/{service['StateDirectory']}/" in service["Environment"]


def test_the_units_command_says_ready_and_stops_on_sigterm(service: Mapping[str, str], tmp_path: Path) -> None:
    state = tmp_path / service["StateDirectory"]
    state.mkdir()
    binary, *arguments = shlex.split(service["ExecStart"].replace("/etc/kqs", str(ROOT / "config")))
    variables: list[list[str]] = [pair.split("=", 1) for pair in service["Environment"].replace("%S", str(tmp_path)).split()]
    assert binary == BINARY
    with serving(state, [*SERVE[:-1], *arguments], SERVE_ENVIRON | dict(variables)) as served:
        assert (state / "journal").is_dir()
        assert served.stop() == 0
