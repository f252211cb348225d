"""The handlers that are always there: `ping` and `echo`, so that a first job runs with no code written."""

from __future__ import annotations

import sys
import time

from msgspec import Raw

import kqs


@kqs.handler("ping")
async def ping(data: Raw, job: kqs.JobContext) -> None:
    """Print the job's payload, as the client sent it, in one line on stdout."""
    line = f"{time.strftime('%H:%M:%S')} {job.id} ping running, payload = {bytes(data).decode()}\n"
    sys.stdout.write(line)
    sys.stdout.flush()


@kqs.handler("echo")
async def echo(data: Raw) -> Raw:
    """Return the data, byte for byte."""
    return data
