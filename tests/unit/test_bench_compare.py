"""bench.compare: what two commits measured in turns come to."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.compare import _compared, _measure, _unpack
from bench.figures import Bench
from tests.support.serving import ROOT


def test_the_ratio_is_the_median_of_the_turns_not_of_the_sides() -> None:
    assert _compared([(100, 110), (200, 210), (50, 100)]) == ("100", "110", "1.10", "1.05 … 2.00")


def test_what_only_one_side_measured_has_no_ratio() -> None:
    assert _compared([]) == ("-", "-", "-", "-")


def test_a_commit_is_laid_out_with_its_server(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    assert len(_unpack("HEAD", tmp_path)) >= 7
    assert (tmp_path / "kqs/daemon.py").exists()


def test_a_commit_that_is_not_there_is_told_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.compare", "no-such"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("figure", ["work", "reserve", "kqs work", "idle work", "waiting", "processes", "commands"])
def test_a_figure_that_a_version_cannot_give_is_left_out(tmp_path: Path, figure: str) -> None:
    assert _measure(figure, Bench(tmp_path, cores="0", scale=1.0, tree=tmp_path)) == {}
