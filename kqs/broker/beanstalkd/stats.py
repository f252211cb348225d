"""What a beanstalkd says of itself and of its tubes."""

from __future__ import annotations

from typing import NamedTuple

from kqs.wire.beanstalk.values import Ok, Reply

#: what a server takes unless it says otherwise (`-z`)
_DEFAULT_JOB_BYTES = 65_535
_TUBE_NUMBERS = ("current-jobs-ready", "current-jobs-delayed", "pause-time-left")


class ServerStats(NamedTuple):
    """instance: which life of it answers. ready_count: in all tubes. max_job_bytes: the longest body that it takes."""

    instance: str
    is_draining: bool
    ready_count: int
    max_job_bytes: int


class TubeStats(NamedTuple):
    """delayed_count: jobs put aside by those whose they are not. paused_s: how long it is paused still."""

    ready_count: int
    delayed_count: int
    paused_s: int


def server_stats(reply: Reply) -> ServerStats:
    """Return what `stats` was answered. Raises: ValueError: by no beanstalkd that we can use."""
    if not isinstance(reply, Ok):
        raise ValueError(f"stats were answered by {reply}")
    stats = reply.stats()
    # told apart by its id, which is new with every start
    instance = stats.get("id") or stats.get("pid", "")
    if not instance:
        raise ValueError("its stats name no id")
    return ServerStats(
        instance,
        stats.get("draining") == "true",
        int(stats.get("current-jobs-ready", 0)),
        int(stats.get("max-job-size", _DEFAULT_JOB_BYTES)),
    )


def tube_stats(reply: Reply) -> TubeStats:
    """Return what `stats-tube` was answered, zeros for a tube that is not there. Raises: ValueError: no number."""
    stats = reply.stats() if isinstance(reply, Ok) else {}
    return TubeStats(*(int(stats.get(name, 0)) for name in _TUBE_NUMBERS))
