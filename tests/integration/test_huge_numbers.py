"""Data with a number that no float can hold: a job keeps it, and a program that reads it is told so in the library's words."""

from __future__ import annotations

from pathlib import Path

import pytest

import kqs
from kqs.client import connect
from kqs.errors import CallError
from tests.support.serving import serving

INSERT = '{"id":1,"n":"insert","m":{"type":"huge","id":"one","data":1e999}}'


async def test_data_that_no_float_can_hold_is_refused_where_it_is_read(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        server.ask(INSERT)
        async with connect("127.0.0.1", server.port) as client:
            (run,) = await client.reserve(["huge"], wait_s=10)
            assert bytes(run.raw) == b"1e999"
            with pytest.raises(CallError, match="no float can hold"):
                run.data  # noqa: B018
            with pytest.raises(CallError, match="no float can hold"):
                await client.call("job", "one")
        async with kqs.connect(f"127.0.0.1:{server.port}") as queue:
            with pytest.raises(CallError, match="no float can hold"):
                await queue.job("one")
