"""The job whose damaged body has ended a connection.

A beanstalkd that read it back from a torn binlog would offer it to the next connection too, and end that one. So it is deleted
there first, if it is the same life of that beanstalkd: job ids may begin anew with each life.
"""

from __future__ import annotations

from kqs.broker.beanstalkd.trio import Trio
from kqs.log import get_logger
from kqs.wire.beanstalk.commands import Delete

_log = get_logger("kqs.broker")


class Damaged:
    """That of one beanstalkd. Call from the loop thread."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._instance = ""
        self._job_id: int | None = None

    def note(self, trio: Trio) -> None:
        """Note which job ended connections, if one did."""
        for link in trio.links:
            if link.damaged_id is not None:
                self._instance, self._job_id = link.instance, link.damaged_id

    async def delete(self, trio: Trio) -> None:
        """Delete what was noted. Raises: LinkLostError."""
        if self._job_id is not None and self._instance == trio.instance:
            (reply,) = await trio.takes.ask(Delete(self._job_id))
            _log.warning("deleted a job with a damaged body", server=self._address, job=self._job_id, answer=str(reply))
        self._job_id = None
