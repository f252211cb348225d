from __future__ import annotations

import pytest

from kqs.feeder.alike import Alike, type_of_all
from kqs.feeder.intake import PIECE_JOBS
from kqs.journal import Kind, Record
from kqs.wire.jobs import decode_jobs

MAIL = b'{"type":"mail"}'
URGENT = b'{"type":"mail","prio":"urgent"}'
SMS = b'{"type":"sms"}'


def a_record(*jobs: bytes, seq: int = 0, is_live: bool = True, claimed: bool = False) -> Record:
    payload = b"[%b]" % b",".join(jobs)
    record = Record(Kind.JOBS, len(jobs), 1_000_000, payload, decode_jobs(payload) if is_live else None, seq=seq)
    record.claimed = claimed
    return record


@pytest.mark.parametrize(
    ("jobs", "type_"),
    [
        ([MAIL], "mail"),
        ([MAIL] * 3, "mail"),
        ([URGENT], None),
        ([MAIL, URGENT], None),
        ([MAIL, SMS], None),
        ([MAIL] * (PIECE_JOBS + 1), None),
    ],
    ids=["one", "some", "one with an option", "one of some with an option", "two types", "too many"],
)
def test_the_type_of_all_is_told_of_jobs_that_are_alike(jobs: list[bytes], type_: str | None) -> None:
    assert type_of_all(a_record(*jobs)) == type_
    assert type_of_all(a_record(*jobs, is_live=False)) is None


def test_what_is_alike_is_known_from_the_first_such_record_on() -> None:
    alike = Alike(3)
    for seq, jobs in enumerate([[MAIL], [MAIL, MAIL], [SMS], [URGENT], [MAIL], [MAIL]], 3):
        alike.note(a_record(*jobs, seq=seq))
        if seq == 4:
            assert [alike.type_from(seq) for seq in (2, 3, 4, 5)] == [None, "mail", "mail", "mail"]
        if seq == 5:
            assert [alike.type_from(seq) for seq in (4, 5)] == [None, "sms"]
        if seq == 6:
            assert [alike.type_from(seq) for seq in (5, 6, 7)] == [None, None, None]
    assert [alike.type_from(seq) for seq in (6, 7, 8)] == [None, "mail", "mail"]


def test_a_claimed_record_waits_for_nothing() -> None:
    alike = Alike()
    alike.note(a_record(MAIL, seq=0))
    alike.note(a_record(URGENT, seq=1, claimed=True))
    assert alike.type_from(0) == "mail"
