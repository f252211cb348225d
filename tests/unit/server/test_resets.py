"""Who has reset its connection after its end of input."""

from __future__ import annotations

import errno
import os
import select
import socket
import sys

import pytest

from kqs.server.resets import Resets
from tests.support.supervising import StrictSupervisor
from tests.support.turning import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="heard by epoll")


async def test_a_connection_that_breaks_is_told_of_once() -> None:
    resets, told = Resets(StrictSupervisor()), list[str]()
    ours, theirs = socket.socketpair()
    with ours:
        resets.watch(ours.fileno(), lambda: told.append("broken"))
        theirs.close()
        await until(lambda: told == ["broken"])
        resets.close()


async def test_without_a_descriptor_nothing_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(select, "epoll", refuse)
    resets = Resets(StrictSupervisor())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        resets.watch(ours.fileno(), lambda: None)
        resets.forget(ours.fileno())
        resets.close()
