"""What the driver's errors are to the store's callers."""

from __future__ import annotations

from typing import Any

import pytest
from bson.errors import InvalidBSON
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    ProtocolError,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WTimeoutError,
)

from kqs.errors import StoreError, StoreUnavailableError
from kqs.store.mongo.client import connect, translated

WRITE_CONCERN_ERROR = {"writeErrors": [], "writeConcernErrors": [{"code": 64, "errmsg": "waiting for replication timed out"}]}


@pytest.mark.parametrize(
    "error",
    [
        AutoReconnect("gone"),
        NetworkTimeout("late"),
        ServerSelectionTimeoutError("nobody"),
        NotPrimaryError("stepped down"),
        WaitQueueTimeoutError("no connection is free"),
        WTimeoutError("not replicated"),
        OperationFailure("shutting down", 91),
        OperationFailure("disk full", 14031),
        OperationFailure("a file cannot be written", 39),
        OperationFailure("the cursor is gone", 43),
        OperationFailure("writes are blocked", 371),
        ProtocolError("Got response id 2 but expected 1"),
        InvalidBSON("bad eoo"),
        BulkWriteError(WRITE_CONCERN_ERROR),
        BulkWriteError({"writeErrors": [{"index": 0, "code": 189, "errmsg": "stepped down"}], "writeConcernErrors": []}),
    ],
)
def test_what_may_pass_is_unavailable(error: Exception) -> None:
    assert type(translated(error)) is StoreUnavailableError


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OperationFailure("Authentication failed.", 18), "Authentication failed"),
        (OperationFailure("not authorized on kqs", 13), "not authorized on kqs"),
        (BulkWriteError({"writeErrors": [{"index": 0, "code": 121, "errmsg": "fails validation"}]}), "fails validation"),
        (PyMongoError("odd"), "PyMongoError: odd"),
    ],
)
def test_what_does_not_pass_says_why(error: PyMongoError, said: str) -> None:
    refused = translated(error)
    assert type(refused) is StoreError
    assert said in str(refused)


def test_an_error_is_said_without_the_drivers_settings() -> None:
    error = ServerSelectionTimeoutError(
        "h:1: refused (configured timeouts: socketTimeoutMS: 3000.0ms), Timeout: 3s, Topology: …"
    )
    assert str(translated(error)) == "MongoDB is away: h:1: refused"


async def test_writes_are_acknowledged_by_a_majority_and_journaled_whatever_the_uri_says() -> None:
    client = connect("mongodb://h/kqs?w=1&journal=false&socketTimeoutMS=77&retryWrites=true")
    assert client.write_concern.document == {"w": "majority", "j": True, "wtimeout": 10_000}
    options: Any = client.options  # no function, as motor's annotations say
    assert (options.pool_options.socket_timeout, options.retry_writes) == (0.077, False)
    client.close()


async def test_connections_and_waits_are_bounded() -> None:
    client = connect("mongodb://h/kqs?maxPoolSize=3")
    options: Any = client.options  # as above
    pool = options.pool_options
    assert (pool.max_pool_size, pool.connect_timeout, pool.socket_timeout, pool.wait_queue_timeout) == (3, 3, 20, 10)
    assert options.server_selection_timeout == 3
    client.close()
