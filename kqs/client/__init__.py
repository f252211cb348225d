"""A small asyncio client: pipelined calls, inserts that survive a lost connection.

async with kqs.client.connect("localhost", 14151) as kqs:
    job_id = await kqs.insert("resize", {"path": "a.png"}, prio="high")
    stats = await kqs.call("stats")
"""

from kqs.client.address import DEFAULT_PORT, Address, parse_address
from kqs.client.client import DEFAULT_TIMEOUT_S, Client, connect
from kqs.client.ended import Ended
from kqs.client.errors import CallTimeoutError, ConnectionLostError, UnreachableError
from kqs.client.events import Events
from kqs.client.owners import Changed
from kqs.client.rules import Configured, LastTick, Schedule
from kqs.client.runs import Report, Run
from kqs.client.standing import Work
from kqs.wire.inserted import Inserted

__all__ = [
    "DEFAULT_PORT",
    "DEFAULT_TIMEOUT_S",
    "Address",
    "CallTimeoutError",
    "Changed",
    "Client",
    "Configured",
    "ConnectionLostError",
    "Ended",
    "Events",
    "Inserted",
    "LastTick",
    "Report",
    "Run",
    "Schedule",
    "UnreachableError",
    "Work",
    "connect",
    "parse_address",
]
