"""What tests of schedules share: a handler that notes each run, and what was noted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

NOTING = """
import asyncio
import os
import kqs

@kqs.handler("tick")
async def tick(data, job):
    with open(os.environ["RAN"], "a") as ran:
        ran.write(f"{job.id} {job.attempt}\\n")

@kqs.handler("held")
async def held(data, job):
    with open(os.environ["RAN"], "a") as ran:
        ran.write(f"{job.id} {job.attempt}\\n")
    while not os.path.exists(data):
        await asyncio.sleep(0.02)
"""


def _runs(path: Path) -> list[list[str]]:
    return [line.rsplit(" ", 1) for line in path.read_text().splitlines()] if path.exists() else []


def first_runs(path: Path) -> Counter[str]:
    """Return how often the first run of each job has begun: twice means that the job was there twice."""
    return Counter(job_id for job_id, attempt in _runs(path) if attempt == "1")


def have_run(path: Path) -> set[str]:
    """Return the jobs that have run, also those whose first run ended with its server before it had begun."""
    return {job_id for job_id, _ in _runs(path)}
