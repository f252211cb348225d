"""May this job run now? Every way into a lane asks here, last of all as the run begins.

The ways: from the broker, by a claim of the store; stored and claimed at once; claimed in the journal. A store asks the same of
what it claims, in its own language. Between the claim and the begin time passes, in which a job may wait for its lane.
"""

from __future__ import annotations


def may_run(expire_at: float | None, now: float) -> bool:
    """Tell whether a job that expires at `expire_at` (None: never) may run at `now`; both in Unix seconds."""
    return expire_at is None or now < expire_at
