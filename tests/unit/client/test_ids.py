"""Ids that a client makes for its inserts."""

from __future__ import annotations

import os
from posix import _exit as leave_now

from kqs.client.ids import ClientIds


def digits(job_id: str) -> str:
    """Return what sets the ids of one maker apart from those of all others."""
    return job_id.rpartition(".")[2]


def taken_in_a_fork(ids: ClientIds) -> str:
    """Return an id that a child process takes, which has the maker from its parent."""
    told, telling = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(telling, ids.take().encode())
        finally:
            leave_now(0)
    os.close(telling)
    os.waitpid(child, 0)
    with os.fdopen(told) as ear:
        return ear.read()


def test_no_two_processes_make_the_same_id() -> None:
    ids = ClientIds()
    before = digits(ids.take())
    children = {digits(taken_in_a_fork(ids)) for _ in range(2)}
    assert len({before, *children}) == 3
    assert digits(ids.take()) == before
