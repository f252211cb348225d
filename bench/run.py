"""Run every figure, print a table, write JSON: python -m bench.run [--full] [--scale X] [--only NAME …]."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import batches, figures, limits, owning, remote, turns
from bench.figures import Bench
from bench.tools import Figure, compile_programs

STATE = Path(__file__).parents[1] / ".cache"
FIGURES: dict[str, Callable[[Bench], Figure]] = {
    "echo": figures.echo,
    "insert": figures.insert,
    "steady": figures.steady,
    "beanstalkd": figures.beanstalk,
    "serial": figures.serial,
    "end to end": figures.end_to_end,
    "beanstalkd puts": figures.beanstalkd_puts,
    "beanstalkd inserts": figures.beanstalkd_inserts,
    "beanstalkd end to end": figures.beanstalkd_end_to_end,
    "latency": figures.latency,
    "start after kill": figures.start_after_kill,
    "retention": figures.retention,
    "work": remote.work,
    "reserve": remote.reserve,
    "kqs work": remote.kqs_work,
    "idle work": remote.idle_latency,
    "waiting": remote.waiting,
    "processes": remote.processes,
    "commands": remote.commands,
    "purge": owning.purge,
    "retry": owning.retry,
    "views": owning.views,
    "hotjob": owning.hotjob,
    "events": owning.events,
    "resources": owning.resources,
    "parked": owning.parked,
    "groups": turns.groups,
    "limits": limits.limits,
    "batch": batches.batch,
}
BACKLOGS = (10_000, 100_000, 1_000_000)
FULL_BACKLOG = 10_000_000


def main() -> int:
    """Measure; 1 when a figure could not be had."""
    arguments = _parse()
    STATE.mkdir(exist_ok=True)
    compile_programs()
    bench = Bench(STATE, arguments.server_cores, arguments.scale)
    console = Console()
    wanted = {name: figure for name, figure in FIGURES.items() if not arguments.only or name in arguments.only}
    results: dict[str, Any] = {"machine": _machine(arguments), "figures": {}, "backlog": []}
    for name, figure in wanted.items():
        results["figures"][name] = _measure(console, name, partial(figure, bench))
    if not arguments.only or "backlog" in arguments.only:
        for waiting in (*BACKLOGS, *([FULL_BACKLOG] if arguments.full else [])):
            found = _measure(console, f"backlog {waiting:,}", partial(figures.backlog, bench, bench.count(waiting)))
            results["backlog"].append(found)
    console.print(_table(results))
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"written to {arguments.output}")
    return int(any("failed" in found for found in (*results["figures"].values(), *results["backlog"])))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.run", description=__doc__)
    parser.add_argument("--full", action="store_true", help="also with 10 M jobs waiting (takes minutes and 10 GB of disk)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of each figure's size, for a quick look")
    parser.add_argument("--only", nargs="+", choices=[*FIGURES, "backlog"], default=[], help="only these figures")
    parser.add_argument("--server-cores", default=str(max(os.sched_getaffinity(0))), help="as taskset counts them")
    parser.add_argument("--output", type=Path, default=STATE / "bench.json", help="where the JSON goes")
    return parser.parse_args()


def _measure(console: Console, name: str, figure: Callable[[], Figure]) -> dict[str, Any]:
    console.print(f"{name} …", style="dim")
    try:
        return dict(figure())
    except FileNotFoundError as absence:
        return {"not measured": str(absence)}
    except (AssertionError, OSError, subprocess.SubprocessError) as fault:
        return {"failed": str(fault)}


def _machine(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "server_cores": arguments.server_cores,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "scale": arguments.scale,
    }


def _table(results: dict[str, Any]) -> Table:
    table = Table("figure", "what", "measured")
    rows = [*results["figures"].items(), *(("backlog", found) for found in results["backlog"])]
    for name, found in rows:
        for index, (what, value) in enumerate(found.items()):
            table.add_row("" if index else name, what, shown(value))
        table.add_section()
    return table


def shown(value: float | str) -> str:
    """Return a measured value as the tables print it."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main())
