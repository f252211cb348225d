"""What a handler may raise to say how its run ended; `kqs.Again` and `kqs.Fail` to its author."""

from __future__ import annotations


class Again(Exception):  # noqa: N818 - a verdict is no error, and is written `raise kqs.Again`
    """Run the job again, at no cost: neither `failures` nor any limit counts it.

    delay: not before this many seconds from now; None: at once.
    """

    def __init__(self, delay: float | None = None) -> None:
        if delay is not None and not 0 <= delay < float("inf"):
            raise ValueError(f"delay: expected seconds >= 0, got {delay!r}")
        super().__init__(delay)
        self.delay = delay


class Fail(Exception):  # noqa: N818 - as Again
    """The run failed, for `reason`. final: no retry can help; else the job's policy decides."""

    def __init__(self, reason: str, final: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.final = final
