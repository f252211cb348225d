"""What owners and the configuration have said of types, as the oracle heeds it: one table of what holds a job back.

It knows nothing of jobs but their type and group; who asks tells it what runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kqs.config import TakingSection

#: of a token, lost to rounding
ROUNDING = 1e-6
_UNSAID = TakingSection()


@dataclass
class Tokens:
    """How many jobs of a type may begin, by its rate. level: of them at `at`, monotonic, in s."""

    per_second: float
    at: float
    level: float = 0.0

    def pass_to(self, now: float) -> None:
        self.level = min(max(1.0, self.per_second), self.level + (now - self.at) * self.per_second)
        self.at = now

    def be_at_rate(self, per_second: float, now: float) -> None:
        """Come at another rate; whole ones that are there stay."""
        self.pass_to(now)
        self.per_second = per_second
        self.level = min(max(1.0, per_second), float(int(self.level + ROUNDING)))

    def give_back(self) -> None:
        self.level = min(max(1.0, self.per_second), self.level + 1.0)

    @property
    def has_one(self) -> bool:
        return self.level + ROUNDING >= 1.0


@dataclass
class Rules:
    """See the module docstring. taking: as configured; limits, options, subscribers: by calls, of each type.

    running: by type, and by type and group; a run counts until it is over, also when its job is deleted.
    """

    taking: Mapping[str, TakingSection] = field(default_factory=dict)
    suspended: set[str] = field(default_factory=set)
    limits: dict[str, dict[str, float | None]] = field(default_factory=dict)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    subscribers: dict[str, list[str]] = field(default_factory=dict)
    tokens: dict[str, Tokens] = field(default_factory=dict)
    running: Counter[str | tuple[str, str | None]] = field(default_factory=Counter)

    def holds(self, type_: str, group: str | None) -> str | None:
        """Return why no job of a type and group may begin now, though it is ready; None: it may."""
        limits, tokens = self.limits.get(type_, {}), self.tokens.get(type_)
        most = [value for name in ("concurrency", "max_running") if (value := limits.get(name)) is not None]
        in_group = self._taking(type_).group_max_running
        table = {
            "suspended": type_ in self.suspended,
            "too many run": bool(most) and self.running[type_] >= min(most),
            "too many begin": tokens is not None and not tokens.has_one,
            "too many of its group run": in_group > 0 and group is not None and self.running[type_, group] >= in_group,
        }
        return next((why for why, is_so in table.items() if is_so), None)

    def begin(self, type_: str, group: str | None) -> None:
        """Let a run begin; it has taken the token that comes back if it turns out that it has not."""
        self.running[type_] += 1
        self.running[type_, group] += 1
        if type_ in self.tokens:
            self.tokens[type_].level -= 1.0

    def limit(self, type_: str, said: Mapping[str, float | None], now: float) -> bool:
        """Have limits above those there are; return whether any is another one. now: monotonic."""
        before = self.limits.get(type_)
        self.limits[type_] = {**(before or {}), **said}
        rate = self.limits[type_].get("rate")
        if rate is None:
            self.tokens.pop(type_, None)
        elif type_ in self.tokens:
            self.tokens[type_].be_at_rate(rate, now)
        else:
            self.tokens[type_] = Tokens(rate, now)
        return before != self.limits[type_]

    def reset(self, type_: str) -> bool:
        """Have no limits any more."""
        self.tokens.pop(type_, None)
        return self.limits.pop(type_, None) is not None

    def start_again(self, now: float) -> None:
        """A server begins: nothing runs, and no rate has given anything yet."""
        self.running.clear()
        self.tokens = {type_: Tokens(tokens.per_second, now) for type_, tokens in self.tokens.items()}

    def pass_to(self, now: float) -> None:
        for tokens in self.tokens.values():
            tokens.pass_to(now)

    def most_waiting(self, type_: str) -> int | None:
        """Return beyond how many that wait the oldest go; None: none do."""
        section = self._taking(type_)
        return section.max_waiting if section.drop == "oldest" and section.max_waiting else None

    def too_many(self, types: Counter[str], waiting: Counter[str]) -> bool:
        """Tell whether so many more of each type are refused."""
        for type_, count in types.items():
            section = self._taking(type_)
            if section.max_waiting and section.drop == "new" and waiting[type_] + count > section.max_waiting:
                return True
        return False

    def _taking(self, type_: str) -> TakingSection:
        return self.taking.get(type_, _UNSAID)
