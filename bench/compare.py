"""Measure this tree beside another commit, in turns: python -m bench.compare COMMIT [--only NAME …] [--turns N] [--scale X].

Both are measured by this tree's programs, each with its own server, one after the other, and in every second turn the other
way round, since the machine is never equally fast for long. What counts is the median of the ratios, turn by turn.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import figures
from bench.figures import Bench
from bench.run import FIGURES, STATE, shown
from bench.tools import Figure, compile_programs

#: what a server of either commit does; the others compare two programs by themselves
DEFAULT = ("echo", "insert", "serial", "end to end", "latency", "start after kill", "work", "reserve", "kqs work", "idle work")
#: what `bench.run` measures besides its named figures: memory, start and rates with so many jobs waiting
WAITING_COUNT = 100_000

Turn = tuple[Figure, Figure]


def main() -> int:
    """Compare, print a table and write what every turn gave."""
    arguments = _parse()
    STATE.mkdir(exist_ok=True)
    compile_programs()
    console = Console()
    results: dict[str, list[Turn]] = {}
    with tempfile.TemporaryDirectory(dir=STATE, prefix="compared-") as name:
        other = Path(name)
        commit = _unpack(arguments.commit, other)
        new = Bench(STATE, arguments.server_cores, arguments.scale)
        old = replace(new, tree=other)
        for figure in arguments.only or DEFAULT:
            results[figure] = []
            for turn in range(arguments.turns):
                console.print(f"{figure}, turn {turn + 1} of {arguments.turns} …", style="dim")
                results[figure].append(_turn(figure, old, new, newest_first=bool(turn % 2)))
    console.print(_table(commit, results))
    arguments.output.write_text(json.dumps({"commit": commit, "turns": results}, indent=2) + "\n")
    console.print(f"written to {arguments.output}")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.compare", description=__doc__)
    parser.add_argument("commit", help="what git calls the other one: a hash, a branch, HEAD~3")
    parser.add_argument("--only", nargs="+", choices=[*FIGURES, "backlog"], default=[], help=f"instead of {', '.join(DEFAULT)}")
    parser.add_argument("--turns", type=int, default=5, help="how often each is measured (default 5)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of each figure's size, for a quick look")
    parser.add_argument(
        "--server-cores", default=",".join(map(str, sorted(os.sched_getaffinity(0)))), help="as taskset counts them"
    )
    parser.add_argument("--output", type=Path, default=STATE / "compare.json", help="where the JSON goes")
    return parser.parse_args()


def _unpack(commit: str, folder: Path) -> str:
    """Put the tree of `commit` into `folder`; return its hash."""
    root = Path(__file__).parents[1]
    found = subprocess.run(
        ["git", "rev-parse", "--quiet", "--verify", "--short", f"{commit}^{{commit}}"],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
    )
    if found.returncode:
        raise SystemExit(f"bench.compare: no commit {commit!r} here")
    archive = subprocess.run(["git", "archive", commit, "kqs", "bench"], cwd=root, stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tree:
        tree.extraction_filter = getattr(tarfile, "data_filter", None)  # Python below 3.11.4 has none
        tree.extractall(folder)
    return found.stdout.strip()


def _turn(figure: str, old: Bench, new: Bench, *, newest_first: bool) -> Turn:
    if newest_first:
        after = _measure(figure, new)
        return _measure(figure, old), after
    before = _measure(figure, old)
    return before, _measure(figure, new)


def _measure(figure: str, bench: Bench) -> Figure:
    if figure == "backlog":
        return figures.backlog(bench, bench.count(WAITING_COUNT))
    try:
        return FIGURES[figure](bench)
    except FileNotFoundError:  # it cannot be had here, or of that commit
        return {}


def _table(commit: str, results: dict[str, list[Turn]]) -> Table:
    table = Table("figure", "what", commit, "this tree", "ratio", "least … most")
    for name, turns in results.items():
        for index, what in enumerate(turns[0][1]):
            pairs = [(old[what], new[what]) for old, new in turns if what in old and what in new]
            table.add_row("" if index else name, what, *_compared(pairs))
        table.add_section()
    return table


def _compared(pairs: list[tuple[float, float]]) -> tuple[str, str, str, str]:
    """Return the medians of both sides, and the median and the range of the ratios new/old, as text."""
    ratios = [new / old for old, new in pairs if old]
    if not ratios:
        return "-", "-", "-", "-"
    old, new = (statistics.median(side) for side in zip(*pairs, strict=True))
    return shown(old), shown(new), f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} … {max(ratios):.2f}"


if __name__ == "__main__":
    sys.exit(main())
