"""The connection: how writes are acknowledged, how long anything may take, and what the driver's errors mean to us.

Sessions, and with them retryable writes, are not used, so that any server of the protocol serves. A write whose answer is lost
may have been done; session.py says how it is recognised.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from typing import Any

from bson.codec_options import TypeDecoder, TypeRegistry
from bson.errors import BSONError
from bson.int64 import Int64
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    ExecutionTimeout,
    InvalidURI,
    OperationFailure,
    ProtocolError,
    PyMongoError,
    WriteConcernError,
)
from pymongo.uri_parser import parse_uri

from kqs.errors import StoreError, StoreUnavailableError

Document = dict[str, Any]

#: the database of a URI that names none
DATABASE = "kqs"
#: what a URI may set otherwise. Times in ms: no operation waits for ever, and a stop waits for none of them long.
_DEFAULTS: dict[str, Any] = {
    "serverSelectionTimeoutMS": 3_000,
    "connectTimeoutMS": 3_000,
    "socketTimeoutMS": 20_000,
    "waitQueueTimeoutMS": 10_000,
    "maxPoolSize": 16,
    "wTimeoutMS": 10_000,
    "appname": "kqs",
}


class _PlainIntegers(TypeDecoder):
    """The driver marks integers that were stored in 64 bits; its own class for them is no number to an encoder of JSON."""

    bson_type = Int64

    def transform_bson(self, value: int) -> int:
        """Return the number."""
        return int(value)


#: what it may not: an acknowledged write outlives the loss of a machine
_FIXED: dict[str, Any] = {
    "w": "majority",
    "journal": True,
    "retryWrites": False,
    "retryReads": False,
    "tz_aware": True,
    "type_registry": TypeRegistry([_PlainIntegers()]),
}

#: codes of a server that is starting, stopping, failing over, full, overloaded or in trouble with its files: a later try may
#: succeed
_PASSING_CODES = frozenset(
    {
        *(6, 7, 50, 64, 89, 91, 189, 202, 262, 9001, 10058, 10107, 11600, 11602, 13435, 13436, 14031),
        *(24, 37, 38, 39, 43, 112, 134, 136, 175, 237, 365, 371),
    }
)
DUPLICATE_KEY = 11000

#: whatever an operation of the driver may raise
DRIVER_ERRORS = (PyMongoError, BSONError)


def connect(uri: str) -> AsyncIOMotorClient[Document]:
    """Return a client for `uri`; nothing is sent yet.

    Raises: StoreError: the URI is wrong.
    """
    try:
        given = {name.lower() for name in parse_uri(uri, connect_timeout=3)["options"]}
        options = {name: value for name, value in _DEFAULTS.items() if name.lower() not in given}
        return AsyncIOMotorClient(uri, io_loop=asyncio.get_running_loop(), **options, **_FIXED)
    except (InvalidURI, ConfigurationError, ValueError) as error:
        raise StoreError(f"the store's uri is no MongoDB URI: {error}") from error


async def write_unless_taken(writing: Awaitable[object]) -> set[int]:
    """Return the indexes of the writes that were refused since their id is taken."""
    try:
        await writing
    except BulkWriteError as error:
        details = error.details or {}
        writes = details.get("writeErrors", [])
        if details.get("writeConcernErrors") or any(write["code"] != DUPLICATE_KEY for write in writes):
            raise
        return {write["index"] for write in writes}
    return set()


def translated(error: Exception) -> StoreError:
    """Return what one of `DRIVER_ERRORS` is to the store's callers."""
    if isinstance(error, BulkWriteError):
        return _translated_bulk(error)
    if isinstance(error, (ConnectionFailure, ExecutionTimeout, WriteConcernError)):
        return StoreUnavailableError(f"MongoDB is away: {_first_line(error)}")
    if isinstance(error, (ProtocolError, BSONError)):
        return StoreUnavailableError(f"MongoDB's answer makes no sense: {_first_line(error)}")
    if isinstance(error, OperationFailure):
        passes = error.code in _PASSING_CODES or error.has_error_label("RetryableWriteError")
        return (StoreUnavailableError if passes else StoreError)(f"MongoDB refuses: {_first_line(error)}")
    return StoreError(f"{type(error).__name__}: {_first_line(error)}")


def _translated_bulk(error: BulkWriteError) -> StoreError:
    details = error.details or {}
    writes = details.get("writeErrors", [])
    refusals = [write for write in writes if write.get("code") not in _PASSING_CODES]
    if refusals:
        return StoreError(f"MongoDB refuses: {refusals[0].get('errmsg', 'a write')}")
    return StoreUnavailableError("MongoDB did not confirm the writes")


def _first_line(error: Exception) -> str:
    return re.split(r"\n|, Timeout:| \(configured timeouts:", str(error))[0][:300]
