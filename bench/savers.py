"""Handlers that run for long and say once a second that they are alive, or how far they are."""

import asyncio
import random

import kqs


@kqs.handler("touches", ttr=3600)
async def touches(data: object, job: kqs.JobContext) -> None:
    """Touch."""
    await asyncio.sleep(random.random())
    while job.touch():  # noqa: ASYNC110 - it is to be said again and again
        await asyncio.sleep(1)


@kqs.handler("saves", ttr=3600)
async def saves(data: object, job: kqs.JobContext) -> None:
    """Save, which is a touch as well."""
    at = 0
    await asyncio.sleep(random.random())
    while job.save({"page": at, "of": 1000}):
        at += 1
        await asyncio.sleep(1)
