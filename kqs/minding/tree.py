"""Processes that have come of one: who they are, and signals to all of them. Safe against those that end meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress


def signal_tree(root: int, number: signal.Signals) -> bool:
    """Send a signal to all that have come of the process `root`, which itself is spared; return whether there were any.

    By groups, where they have some of their own: what a member forks meanwhile is met, too.
    """
    ours = os.getpgrp()
    found = list(descendants(root))
    groups = set()
    for pid in found:
        with suppress(OSError):
            group = os.getpgid(pid)
            if group == ours:
                os.kill(pid, number)
            elif group not in groups:
                groups.add(group)
                os.killpg(group, number)
    return bool(found)


def descendants(root: int) -> Iterator[int]:
    """Yield all that have come of `root` and live, as far as they have not changed their parents."""
    waiting = [root]
    while waiting:
        found = children(waiting.pop())
        waiting += found
        yield from found


def children(pid: int) -> list[int]:
    """Return the children of a process, zombies among them; [] if it is gone."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - pathlib would triple what a helper process imports
    except OSError:
        return []
    found: list[int] = []
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as listed:  # noqa: PTH123 - as above
                found += map(int, listed.read().split())
        except FileNotFoundError:
            if os.path.exists(f"/proc/{pid}/task/{thread}"):  # noqa: PTH110 - as above
                return _children_among_all(pid)  # this kernel keeps no such lists
        except ProcessLookupError:
            pass
    return found


def _children_among_all(parent: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - as above
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as stat:  # noqa: PTH123 - as above
                if int(stat.read().rpartition(b")")[2].split()[1]) == parent:
                    found.append(int(name))
    return found
