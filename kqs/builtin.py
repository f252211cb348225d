"""The handlers that are always there: `ping` and `echo`, so that a first job runs with no code written."""

from __future__ import annotations

import sys
import time

from msgspec import Raw

import kqs
from kqs.words.printable import printable_json


@kqs.handler("ping")
async def ping(data: Raw, job: kqs.JobContext) -> None:
    """Print the job's payload, as the client sent it, in one line on stdout."""
    payload = printable_json(bytes(data).decode())
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {job.id} ping running, payload = {payload}\n")
    sys.stdout.flush()


@kqs.handler("echo")
async def echo(data: Raw) -> Raw:
    """Return the data, byte for byte."""
    return data
