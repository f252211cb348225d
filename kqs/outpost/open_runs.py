"""The runs that this worker has, and the server's belief that it lives: who touches for them, and when.

A run that waits for its lane is touched for, so that its time begins with its handler; so is one of `auto_touch`; of any other
the server is told that its handler has touched it. Each at most every third of its ttr, many in one call. A touch of a handler
is a time that it wrote down, so they are looked for now and then.

The server says which runs are over. While no order stands it cannot, nor while the network holds up what it says: so a run that
is past its ttr or its limit, and a while more, is over without a word. Call from the loop thread.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from kqs.client.runs import cancelled, seconds_left
from kqs.errors import CallError
from kqs.given import TOUCH_SHARE
from kqs.log import get_logger
from kqs.options import Options
from kqs.outpost.line import Line
from kqs.outpost.orders import Order
from kqs.queue.leases import Lease
from kqs.supervisor import Supervisor
from kqs.trouble import Trouble
from kqs.wire.runs import MAX_ROOM

log = get_logger("kqs.work")

#: how often in that share of its ttr (`TOUCH_SHARE`) is looked whether the server is to hear of a run
LOOKS = 4
#: between two looks, in s
SHORTEST_LOOK_S = 0.01
LONGEST_LOOK_S = 1.0
#: a run that the server must have judged is over for us so much later, in s
MARGIN_S = 0.5
#: a run that has waited so long for its lane is touched as it begins, as a share of its ttr
LATE_SHARE = 0.05


class OpenRun:
    """One run. given_at, told_at: from when the server counts its limit and its ttr, at the latest, monotonic.

    lease: None: it has not begun, or is in its first step.
    """

    __slots__ = ("given_at", "lease", "options", "order", "told_at")

    def __init__(self, order: Order, options: Options, now: float) -> None:
        """Args: options: the job's, as far as its worker heeds them."""
        self.order = order
        self.options = options
        self.given_at = now
        self.told_at = now
        self.lease: Lease | None = None

    def is_judged(self, now: float) -> bool:
        """Tell whether the server must have given it up by now: nobody touched it in time, or it is over its limit."""
        options = self.options
        limit_s = math.inf if options.time_limit is None else options.time_limit
        return now - self.told_at > options.ttr + MARGIN_S or now - self.given_at > limit_s + MARGIN_S


class OpenRuns:
    """See the module docstring. By their tokens."""

    def __init__(
        self,
        line: Line,
        supervisor: Supervisor,
        monotonic: Callable[[], float],
        on_over: Callable[[str], None],
        on_cancel: Callable[[str], None],
    ) -> None:
        """Args: on_over: told the token of a run that is over, as it shows here. on_cancel: of one that is to end."""
        self._line = line
        self._supervisor = supervisor
        self._monotonic = monotonic
        self._on_over = on_over
        self._on_cancel = on_cancel
        self._unknown = Trouble(log, "the server does not know runs: it is of another store", "the server knows the runs")
        self._timer: asyncio.TimerHandle | None = None
        self._look_s = LONGEST_LOOK_S
        self._late: list[str] = []
        self.by_token: dict[str, OpenRun] = {}

    def add(self, token: str, run: OpenRun) -> None:
        """Take a run that was given."""
        self.by_token[token] = run
        look_s = run.options.ttr / (TOUCH_SHARE * LOOKS)
        if self._timer is None or look_s < self._look_s:
            self._arm(look_s)

    def begin(self, token: str, run: OpenRun, lease: Lease) -> None:
        """Take in that a run has begun."""
        run.lease = lease
        if lease.began_at - run.told_at > run.options.ttr * LATE_SHARE:
            self._late.append(token)

    def send(self) -> None:
        """Touch for the runs that began late."""
        if self._late:
            tokens, self._late = [token for token in self._late if token in self.by_token], []
            self._touch(tokens, self._monotonic())

    def resume(self) -> None:
        """Take in that there is a connection again: the server counts anew for those that were held meanwhile."""
        now = self._monotonic()
        living = [token for token, run in self.by_token.items() if _lives(run)]
        for run in self.by_token.values():
            run.given_at = run.told_at = now
        self._touch(living, now)

    def note_told(self, token: str) -> bool:
        """Take in that the server hears of a run in another way, now; False: it is over."""
        run = self.by_token.get(token)
        if run is not None:
            run.told_at = self._monotonic()
        return run is not None

    def touch(self, tokens: Iterable[str]) -> None:
        """Touch for runs now, as far as they are not over."""
        if open_tokens := [token for token in tokens if token in self.by_token]:
            self._touch(open_tokens, self._monotonic())

    def end(self, token: str) -> None:
        """Take in that the server says of a run that it is over."""
        self._on_over(token)

    def close(self) -> None:
        """Touch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, look_s: float) -> None:
        self.close()
        self._look_s = min(max(look_s, SHORTEST_LOOK_S), LONGEST_LOOK_S)
        self._timer = self._supervisor.call_later(self._look_s, "touches", self._look)

    def _look(self) -> None:
        self._timer = None
        if not self.by_token:
            return
        now = self._monotonic()
        if self._line.is_open:  # else those that are left are held
            for token in [token for token, run in self.by_token.items() if run.lease is not None and run.is_judged(now)]:
                self._on_over(token)
        self._touch(
            [
                token
                for token, run in self.by_token.items()
                if now - run.told_at >= run.options.ttr / TOUCH_SHARE and _lives(run)
            ],
            now,
        )
        if not self.by_token:
            return
        least_s = min(run.options.ttr for run in self.by_token.values()) / (TOUCH_SHARE * LOOKS)
        self._arm(max(least_s, LOOKS * (self._monotonic() - now)))  # a look must not be all that is done

    def _touch(self, tokens: list[str], now: float) -> None:
        if not self._line.is_open:
            return
        for token in tokens:
            self.by_token[token].told_at = now
        for start in range(0, len(tokens), MAX_ROOM):
            members = [{"run": token} for token in tokens[start : start + MAX_ROOM]]
            self._line.call_list(b'"touch"', members, self._answered)

    def _answered(self, members: Sequence[Mapping[str, str]], answer: msgspec.Raw | CallError | None) -> None:
        if answer is None or isinstance(answer, CallError):
            return
        unknown: list[str] = []
        for member, left in zip(members, seconds_left(answer), strict=True):
            if not isinstance(left, CallError):
                self._unknown.over()
            elif left.call_code == "stale":
                self._on_over(member["run"])
            elif left.call_code == "bad_call":
                unknown.append(member["run"])
        if unknown:  # they go on: the address may be mended before they end
            self._unknown.met(count=len(unknown), run=unknown[0])
        for member, is_cancelled in zip(members, cancelled(answer), strict=False):
            if is_cancelled:
                self._on_cancel(member["run"])


def _lives(run: OpenRun) -> bool:
    """Tell whether there is a reason to say that somebody works on a run."""
    if run.lease is None or run.options.auto_touch:
        return True
    touched_at = run.lease.context.touched_at
    return type(touched_at) is float and touched_at > run.told_at
