"""Jobs whose types have subscribers: they end at once, and what is told of them is told once, whatever fails in between."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from kqs.errors import StoreUnavailableError
from kqs.job import Accepted
from kqs.queue.events import Word
from kqs.queue.multicast import Joins
from kqs.store.base import Looked
from tests.support.jobs import ORDER, an_accepted
from tests.support.queueing import Rig


def a_fanned(number: int, job_id: str) -> Accepted:
    """A job with an id of its own that is not run, but has a copy."""
    copies = [an_accepted(number + 50, "copy")]
    return replace(an_accepted(number), id=job_id, given_id=True, result=b'{"copies":%d}' % number, copies=copies)


async def test_a_look_that_fails_makes_no_job_known_that_was_just_stored(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.accept(replace(an_accepted(1), id="known", given_id=True))
    told: list[tuple[str, str]] = []
    rig.queue.events.listen(lambda batch: told.extend((batch.word.value, job_id) for job_id in batch.ids))
    look = rig.store.look

    async def refusing(job_ids: Sequence[str]) -> Looked:
        monkeypatch.setattr(rig.store, "look", look)
        raise StoreUnavailableError("away")

    monkeypatch.setattr(rig.store, "look", refusing)
    jobs = [a_fanned(2, "known"), a_fanned(3, "new")]
    with pytest.raises(StoreUnavailableError):
        await rig.queue.multiply(jobs, Joins())
    stored = await rig.queue.multiply(jobs, Joins())
    assert [job.order - ORDER for job in stored] == [53]
    assert told == [(Word.CREATED, "new"), (Word.SUCCESS, "new")]


async def test_what_an_earlier_boot_has_stored_has_its_copies_stored(rig: Rig) -> None:
    jobs = [a_fanned(1, "mine")]
    assert [job.order - ORDER for job in await rig.queue.multiply(jobs, Joins())] == [51]
    await rig.restart()
    assert [job.order - ORDER for job in await rig.queue.multiply(jobs, Joins())] == [51]
    assert await rig.queue.multiply([a_fanned(2, "mine")], Joins()) == []
