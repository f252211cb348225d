"""What the server counts, as plain integers."""

from __future__ import annotations


class Counters:
    """Counts since the start; `as_stats` gives them names. Owned by the loop thread."""

    def __init__(self) -> None:
        self.connections_open = 0
        self.connections_total = 0
        self.connections_refused = 0
        self.connections_aborted = 0
        self.connections_foreign = 0
        self.jobs_inserted = 0
        self.calls: dict[str, int] = {}
        self.errors: dict[str, int] = {}

    def call(self, name: str, count: int = 1) -> None:
        """Count calls. `name` must be of the closed list of calls, or peers could grow the table."""
        if count:
            self.calls[name] = self.calls.get(name, 0) + count

    def error(self, code: str, count: int = 1) -> None:
        """Count error answers by code."""
        self.errors[code] = self.errors.get(code, 0) + count

    def as_stats(self) -> dict[str, int | float]:
        """Return one flat table of numbers."""
        table: dict[str, int | float] = {
            "connections": self.connections_open,
            "connections_total": self.connections_total,
            "connections_refused": self.connections_refused,
            "connections_aborted": self.connections_aborted,
            "connections_foreign": self.connections_foreign,
            "jobs_inserted": self.jobs_inserted,
            "calls": sum(self.calls.values()),
            "errors": sum(self.errors.values()),
        }
        # under the names that older systems give them, for whoever watches those
        table |= {"callCount": table["calls"], "jobCount": table["jobs_inserted"], "errorCount": table["errors"]}
        table.update((f"calls_{name}", count) for name, count in sorted(self.calls.items()))
        table.update((f"errors_{code}", count) for code, count in sorted(self.errors.items()))
        return table
