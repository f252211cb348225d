"""Whether all that waits is alike: jobs of one type that set no options, of which none has a right to overtake another."""

from __future__ import annotations

from kqs.feeder.intake import PIECE_JOBS
from kqs.journal import Record
from kqs.options import PlainJob


def type_of_all(record: Record) -> str | None:
    """Return the type of a record's jobs if they are alike; None if they are not, are too many to look at, or not decoded."""
    jobs = record.jobs
    if jobs is None or record.count > PIECE_JOBS:
        return None
    type_ = jobs[0].type
    if record.count == 1:  # sets would cost a lone insert 2 us
        return type_ if type(jobs[0]) is PlainJob else None
    return type_ if {job.type for job in jobs} == {type_} and {type(job) for job in jobs} == {PlainJob} else None


class Alike:
    """The type that all records flushed since some seq have in common, so that those that went to disk alone are known too."""

    def __init__(self, seq: int = 0) -> None:
        """Begin with the record `seq`."""
        self._type: str | None = None
        self._since_seq = seq

    def note(self, record: Record) -> None:
        """Take in the next record. One that is claimed, or has no jobs, waits for nothing."""
        if record.claimed or not record.count:
            return
        type_ = type_of_all(record)
        if type_ is None:
            self._type, self._since_seq = None, record.seq + 1
        elif type_ != self._type:
            self._type, self._since_seq = type_, record.seq

    def type_from(self, seq: int) -> str | None:
        """Return the type of all records from `seq` on; None if they are not alike, or that is not known."""
        return self._type if seq >= self._since_seq else None
