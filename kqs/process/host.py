"""A process that runs users' code beside ours, from its first line to its end: what is set in it, and who watches over it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from kqs import log as logs
from kqs.errors import ExitCode, StartupError
from kqs.process import forks, memory
from kqs.process.descriptors import need_files, print_whole_lines
from kqs.process.loop import run_to_end
from kqs.process.notify import Notifier
from kqs.process.sentry import Sentry
from kqs.process.stop import StopSwitch
from kqs.supervisor import Supervisor

#: how long one thread may keep the interpreter from another, in s
SWITCH_INTERVAL_S = 0.001
#: a start that finds fewer descriptors to be had is refused: for want of one libuv ends the process without a word, and asyncio
#: closes no loop. The loop takes six and who hears signals two; a connection, a module and a few of its files are to be opened
LEAST_FILES = 16


async def until_stopped(stop: StopSwitch, notifier: Notifier, supervisor: Supervisor) -> None:
    """Say that all has started, and from then on that the loop turns, until the stop is requested."""
    aside = []
    if (interval_s := notifier.watchdog_interval_s) is not None:
        aside.append(supervisor.spawn(_watch(notifier, interval_s), "watchdog"))
    if memory.has_holes():
        aside.append(supervisor.spawn(memory.give_back_holes(), "memory"))
    notifier.ready()
    await stop.wait()
    await supervisor.end(*aside)


async def _watch(notifier: Notifier, interval_s: float) -> None:
    """Tell systemd that the loop turns, as often as it asks for."""
    while True:
        notifier.watchdog()
        await asyncio.sleep(interval_s)


def hosted(body: Callable[[Sentry], Coroutine[Any, Any, ExitCode]], grace_s: float) -> ExitCode:
    """Run `body` on a loop of its own; return its exit code. What is left of the process ends within seconds then.

    Args: body: is given who hears signals. grace_s: how long runs may go on in a stop, in s; < 0: as long as they take.
    Raises: StartupError: it could not start; the message is one line for stderr. OSError: the system refuses a file or thread.
    """
    # the store's thread asks for the interpreter after every statement, and a busy loop would keep it for 5 ms each time
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    need_files(LEAST_FILES)
    print_whole_lines()
    memory.map_long_pieces()
    memory.collect_seldom()
    forks.install()
    if (written_to := logs.descriptor()) is not None:
        forks.own(written_to)
    sentry = Sentry(grace_s)
    sentry.start()
    code = ExitCode.SOFTWARE
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            code = run_to_end(runner.get_loop(), body(sentry), sentry.attach)
        except StartupError as error:
            code = error.exit_code
            raise
        except OSError:  # the system refused what the start takes
            code = ExitCode.IO_FAILED
            raise
        finally:
            forks.end_child()
            sentry.leave(code)  # the runner's own end waits for tasks and threads of handlers
    return code
