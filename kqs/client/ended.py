"""How a job has ended, as whoever waited for it is told."""

from __future__ import annotations

from typing import Any

import msgspec

from kqs.client.values import decoded


class Ended(msgspec.Struct):
    """A job that has succeeded. raw: what its handler returned, as JSON."""

    id: str
    state: str
    raw: msgspec.Raw = msgspec.field(name="result")

    @property
    def result(self) -> Any:
        """Return what the job's handler returned. Raises: CallError: it has a number that no float can hold."""
        return decoded(self.raw)


_decode = msgspec.json.Decoder(Ended).decode


def ended_job(result: msgspec.Raw) -> Ended:
    """Return what an insert with `wait` was answered. Raises: msgspec.DecodeError: it is no such answer."""
    return _decode(result)
