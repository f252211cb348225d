"""The jobs of a dead server's journal, as another server takes them over.

Each keeps the id that its client was answered, so that what the other server, or a store that both share, knows already changes
nothing, and the replay can be repeated. What counts from the acceptance (`delay`, `expire`) still does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec
from msgspec import Raw

from kqs.ids import Ids
from kqs.journal import Kind, Record, fanned
from kqs.journal.stopped import StoppedJournal
from kqs.options import OptionFields, allowed
from kqs.wire.replayed import replay_jobs

#: what is left, in s, of a time that is over: a job that expired must end as such, with its record, and never begin
_LEAST_S = 0.000_001


class _Call(msgspec.Struct):
    m: Raw


_decode_call = msgspec.json.Decoder(_Call).decode
_decode_jobs = msgspec.json.Decoder(list[Raw]).decode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_any = msgspec.json.Decoder().decode
_decode_number = msgspec.json.Decoder(float).decode
_encode = msgspec.json.Encoder().encode


class JournalJobs:
    """See JobSource: jobs are numbered by their orders."""

    call = "adopt"

    def __init__(self, journal: StoppedJournal, now: Callable[[], float]) -> None:
        """Args: now: wall time in Unix seconds."""
        self._ids = Ids(journal.node)
        self._records = journal.read()
        self._now = now
        self._accepted_at: dict[int, float] = {}  # by order, of the jobs read last
        self.size_bytes = journal.size_bytes

    async def read(self) -> list[tuple[int, bytes]]:
        """See JobSource."""
        async for records in self._records:
            self._accepted_at = {
                order: record.accepted_at for record in records for order in range(record.first_order, record.last_order + 1)
            }
            if found := list(_numbered(records, self._ids.of)):
                return found
        return []

    def job(self, order: int, text: bytes, /) -> bytes:
        """See JobSource."""
        at = self._accepted_at[order]
        fields = {name: value for name, value in _decode_fields(text).items() if name == "data" or bytes(value) != b"null"}
        for name in fields.keys() & OptionFields.__struct_fields__:
            fields[name] = Raw(_encode(allowed(name, _decode_any(fields[name]))))  # it may be older than the bounds
        for name in ("answer", "on_conflict", "wait", "tick"):  # of who inserted it: nobody waits for that answer
            fields.pop(name, None)
        fields.setdefault("id", Raw(_encode(self._ids.of(order))))
        if (delay := fields.pop("delay", None)) is not None:
            fields["at"] = Raw(_encode(at + _decode_number(delay)))
        if (expire := fields.get("expire")) is not None:
            left_s = at + _decode_number(expire) - self._now()
            fields["expire"] = Raw(_encode(max(left_s, _LEAST_S)))
        return _encode(fields)

    def named(self, order: int) -> tuple[str, str]:
        """See JobSource."""
        return "job", self._ids.of(order)


def _numbered(records: Iterable[Record], id_of: Callable[[int], str]) -> Iterator[tuple[int, bytes]]:
    for record in records:
        if not record.count:
            continue
        texts = _fanned_texts(record, id_of) if record.kind is Kind.FANNED else _texts(record.kind, record.payload)
        yield from enumerate(texts, record.first_order)


def _fanned_texts(record: Record, id_of: Callable[[int], str]) -> list[bytes]:
    """Return the JSON of the jobs as sent, which say what copies they have: whoever takes them over makes these anew."""
    plan, payload = fanned.unpack(record.payload)
    jobs = [_decode_fields(text) for text in _texts(Kind.JOBS, payload)]
    copies: list[dict[str, str]] = [{} for _ in jobs]
    for one in fanned.copies_of(replay_jobs(payload), plan):
        copies[one.of][one.type] = one.id or id_of(record.first_order + one.place)
    return [_encode(fields | ({"copies": Raw(_encode(own))} if own else {})) for fields, own in zip(jobs, copies, strict=True)]


def _texts(kind: Kind, payload: bytes) -> list[bytes]:
    """Return the JSON of each job of a record."""
    if kind is Kind.CALLS:
        return [bytes(_decode_call(line).m) for line in payload.split(b"\n") if line.strip()]
    return list(map(bytes, _decode_jobs(payload))) if payload.lstrip().startswith(b"[") else [payload]
