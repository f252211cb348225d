"""What every test gets: asynchronous ones run on uvloop and on asyncio's own loop, each process it starts hears signals.

But for the long sweeps over disks, kills and foreign stores, to which a loop makes no difference: they run on uvloop alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Mapping

import hypothesis
import pytest
import structlog
import uvloop

from kqs.log import PROCESSORS
from tests.support.mortal import die_with_parent
from tests.support.supervising import StrictSupervisor

# an example may take as long as it does: other tests run beside these
hypothesis.settings.register_profile("untimed", hypothesis.settings.default, deadline=None)
hypothesis.settings.load_profile("untimed")

# where structlog.testing.capture_logs looks for what to replace
structlog.configure(processors=PROCESSORS)


_SWEEPS = ("tests/crash/", "tests/contract/test_mongo")
_LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.SelectorEventLoop,
}


@pytest.hookimpl(tryfirst=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": _LOOPS["uvloop"]} if item.nodeid.startswith(_SWEEPS) else _LOOPS


@pytest.fixture(autouse=True)
def _no_part_of_a_node_ends_unasked() -> Iterator[None]:
    StrictSupervisor.made.clear()
    yield
    assert [fault for supervisor in StrictSupervisor.made for fault in supervisor.faults] == []


def pytest_configure() -> None:
    """In the background of a script SIGINT is ignored, below nohup SIGHUP, and whatever a test starts would inherit that.

    A worker of pytest-xdist ends with the run, or it would go on with its test, and what that has started too.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        die_with_parent()
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
