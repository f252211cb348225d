"""What names a run to whoever runs it elsewhere: its claim, and a check that it is one of this store's. Pure.

A token is opaque to its holder, and no secret. That it was altered, or is another store's, shows in the check; that its run is
not the current one any more shows in the claim.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from kqs.crc import crc32c
from kqs.ids import ID_PATTERN
from kqs.job import Claim, Run

_TOKEN = re.compile(r"([0-9a-f]{8})\.(([0-9a-f]{1,16})\.([0-9a-f]{1,16})\.([0-9a-f]{1,16})\.([0-9a-f]{1,16})\.(.{1,200}))")


class Named(NamedTuple):
    """The run that a token names: its claim, and which run of the job it is to people, from 1."""

    claim: Claim
    attempt: int


class Tokens:
    """The tokens of one store."""

    def __init__(self, store_id: str) -> None:
        self._seed = crc32c(store_id.encode())

    def of(self, run: Run) -> str:
        """Return the token of a run, of 300 characters at most: a job's id, four numbers and the check."""
        claim = run.claim
        text = b"%x.%x.%x.%x.%b" % (claim.order, claim.attempt, run.attempt, claim.epoch, claim.id.encode())
        return (b"%08x.%b" % (crc32c(text, self._seed), text)).decode()

    def named(self, token: str) -> Named | None:
        """Return what a token names; None: it is none of this store's."""
        match = _TOKEN.fullmatch(token) if token.isascii() else None
        if match is None or not ID_PATTERN.fullmatch(match[7]):
            return None
        if int(match[1], 16) != crc32c(match[2].encode(), self._seed):
            return None
        order, claimed, attempt, epoch = (int(match[number], 16) for number in (3, 4, 5, 6))
        if max(order, claimed, attempt, epoch) >= 2**63:  # no store numbers so far
            return None
        return Named(Claim(order, match[7], claimed, epoch), attempt)
