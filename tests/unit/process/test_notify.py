import os

import pytest

from kqs.process.notify import Notifier

ADDRESS = {"NOTIFY_SOCKET": "/nowhere/notify"}


def test_without_a_socket_every_message_is_a_no_op() -> None:
    notifier = Notifier({"WATCHDOG_USEC": "1000000"})
    assert not any([notifier.ready(), notifier.stopping(), notifier.watchdog(), notifier.extend_timeout(1)])
    assert notifier.watchdog_interval_s is None


def test_an_address_of_an_unknown_kind_is_a_no_op() -> None:
    assert Notifier({"NOTIFY_SOCKET": "vsock:2:1234"}).ready() is False


def test_an_unreachable_socket_is_told_not_raised() -> None:
    assert Notifier(ADDRESS).ready() is False


def test_the_watchdog_interval_is_half_of_what_is_allowed() -> None:
    assert Notifier(ADDRESS | {"WATCHDOG_USEC": "30000000"}).watchdog_interval_s == 15.0


def test_a_watchdog_meant_for_this_process_counts() -> None:
    environ = ADDRESS | {"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}
    assert Notifier(environ).watchdog_interval_s == 1.0


def test_a_watchdog_meant_for_another_process_does_not_count() -> None:
    assert Notifier(ADDRESS | {"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}).watchdog_interval_s is None


@pytest.mark.parametrize("value", ["", "0", "soon", "-5"])
def test_a_watchdog_time_that_is_none_is_ignored(value: str) -> None:
    assert Notifier(ADDRESS | {"WATCHDOG_USEC": value}).watchdog_interval_s is None
