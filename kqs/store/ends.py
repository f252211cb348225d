"""How a job may end, in words and states that every engine keeps to. Pure."""

from __future__ import annotations

from kqs.states import State

#: the error of a job that did not succeed in time
EXPIRED = "expired"
#: the only ends of a run whose job was cancelled meanwhile
OF_CANCELLED = frozenset({State.SUCCESS, State.CANCELLED})
