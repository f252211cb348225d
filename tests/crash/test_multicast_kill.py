"""Jobs with subscribers over a kill between any two steps of the store: each has all of its copies, and none twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from kqs.config import TakingSection
from kqs.errors import CallError
from kqs.inserter import Answer
from kqs.job import JobRecord
from kqs.options import Cascade
from kqs.states import State
from kqs.wire.steps import finish
from tests.support.clock import FakeClock
from tests.support.whole import Whole

SUBSCRIBERS = {"order": TakingSection(fan_out=["bill", "ship"])}
JOBS = (
    b'[{"type":"order","id":"mine","data":1},{"type":"order"},{"type":"mail"},'
    b'{"type":"order","id":"mine"},{"type":"order","delay":900,"unique":"k"}]'
)


async def boot(folder: Path, clock: FakeClock, *, has_subscribers: bool) -> Whole:
    whole = Whole(folder, clock, Cascade({}, {}))
    whole.taking = SUBSCRIBERS if has_subscribers else {}
    await whole.start()
    return whole


async def insert(whole: Whole, text: bytes, *, adopted: bool = False) -> list[Answer]:
    told: asyncio.Future[list[Answer] | Exception] = asyncio.get_running_loop().create_future()
    given = finish(whole.inserter.checking(text, 100, adopted=adopted))
    whole.inserter.keep_told(given, told.set_result, adopted=adopted)
    answers = await told
    assert isinstance(answers, list)
    return answers


def check(records: list[JobRecord]) -> None:
    by_id = {record.id: record for record in records}
    of = {type_: [record for record in records if record.type == type_] for type_ in ("order", "bill", "ship", "mail")}
    assert {type_: len(found) for type_, found in of.items()} == {"order": 3, "bill": 3, "ship": 3, "mail": 1}
    seen = set()
    for order in of["order"]:
        assert (order.state, order.result is not None) == (State.SUCCESS, True)
        copies = msgspec.json.decode(order.result or b"")["copies"]
        assert [by_id[copies[type_]].type for type_ in ("bill", "ship")] == ["bill", "ship"]
        assert {by_id[job_id].data for job_id in copies.values()} == {order.data}
        seen.update(copies.values())
    assert len(seen) == 6
    assert sorted(record.state for record in of["bill"]) == [State.NEW, State.NEW, State.DELAYED]


async def test_a_kill_between_any_two_steps_leaves_each_job_with_its_copies(tmp_path: Path) -> None:
    clock = FakeClock()
    whole = await boot(tmp_path / "first", clock, has_subscribers=True)
    images: list[Path] = []

    def step() -> None:
        images.append(tmp_path / f"image-{len(images)}")
        whole.image(images[-1])

    whole.on_step = step
    await insert(whole, JOBS)
    await whole.be_still()
    whole.on_step = lambda: None
    check(await whole.records())
    await whole.stop()
    assert len(images) >= 4
    for image in images:
        # who subscribes has no say in what was accepted before
        again = await boot(image, clock, has_subscribers=False)
        await again.be_still()
        check(await again.records())
        again.rig.queue.subscriptions.of["order"] = ["bill", "ship", "late"]
        await again.stop()
        again = await boot(image, clock, has_subscribers=True)
        assert await insert(again, b'{"type":"order","id":"mine"}') == ["mine"]
        await again.be_still()
        check(await again.records())
        await again.stop()


async def test_what_counts_as_waiting_is_what_is_made(tmp_path: Path) -> None:
    whole = Whole(tmp_path, FakeClock(), Cascade({}, {}))
    whole.taking = SUBSCRIBERS | {"bill": TakingSection(max_waiting=2)}
    await whole.start()
    bounds = whole.rig.queue.bounds
    for _ in range(4):
        await insert(whole, b'{"type":"order","id":"mine"}')
        await whole.be_still()
        assert bounds.waiting("bill") == 1
    await insert(whole, b'{"type":"order"}')
    with pytest.raises(CallError, match="'bill' has max_waiting = 2: 2 of its jobs wait"):
        await insert(whole, b'{"type":"order"}')
    await whole.stop()


async def test_what_is_taken_over_twice_has_the_copies_that_it_had(tmp_path: Path) -> None:
    whole = await boot(tmp_path, FakeClock(), has_subscribers=True)
    text = b'{"type":"order","id":"mine","data":5,"copies":{"bill":"fffffffffffff-00000000","old":"%b"}}'
    for other in (b"a", b"a", b"b"):  # the last is another job of its id
        assert await insert(whole, text % other, adopted=True) == ["mine"]
        await whole.be_still()
        records = {record.id: record for record in await whole.records()}
        assert {job_id: (one.type, one.data) for job_id, one in records.items()} == {
            "mine": ("order", b"5"),
            "fffffffffffff-00000000": ("bill", b"5"),
            "a": ("old", b"5"),
        }
        assert records["mine"].result == b'{"copies":{"bill":"fffffffffffff-00000000","old":"a"}}'
    await whole.stop()
