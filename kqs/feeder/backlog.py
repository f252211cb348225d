"""What the journal has and memory does not: read back in order, and asked for the claims of an earlier boot first."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from kqs.feeder.lost import LostClaims
from kqs.journal import Journal, Kind, Record, claimed_orders


class Backlog:
    """One reading of the journal, from where memory ends. Call from the feeder's task."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._reading: AsyncGenerator[list[Record], None] | None = None

    async def next(self, from_seq: int) -> list[Record] | None:
        """Return the next records, which begin with `from_seq` at the first call; None at the durable end of this reading.

        Raises: JournalError: the disk refused; what comes next is read anew.
        """
        if self._reading is None:
            self._reading = self._journal.read(from_seq)
        try:
            records = await anext(self._reading, None)
        except BaseException:
            await self.close()
            raise
        if records is None:
            self._reading = None
        return records

    async def close(self) -> None:
        """End the reading. Idempotent."""
        if self._reading is not None:
            reading, self._reading = self._reading, None
            await reading.aclose()

    async def lost_claims(self, from_seq: int, end_seq: int) -> LostClaims:
        """Return what the records from `from_seq` to `end_seq` (exclusive) tell of claims. Raises: JournalError."""
        found: list[range] = []
        async with aclosing(self._journal.read(from_seq)) as reading:
            async for records in reading:
                for record in records:
                    if record.kind is Kind.CLAIMS and record.seq < end_seq:
                        found += claimed_orders(record)
                if records[-1].seq >= end_seq:
                    break
        return LostClaims(found)
