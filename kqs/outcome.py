"""How a run ended, whoever ran it."""

from __future__ import annotations

import msgspec


class Ok(msgspec.Struct, frozen=True, gc=False):
    """The run succeeded. result: JSON, or None when the handler returned None."""

    result: bytes | None = None


class Again(msgspec.Struct, frozen=True, gc=False):
    """The handler wants another run, at no cost. delay_s: not before this many seconds; None: at once."""

    delay_s: float | None = None


class Failed(msgspec.Struct, frozen=True, gc=False):
    """The run failed. reason: one text for people. final: no retry can help.

    delay_s: a retry not before this many seconds; None: as the job's settings say.
    """

    reason: str
    final: bool = False
    delay_s: float | None = None


Outcome = Ok | Again | Failed
