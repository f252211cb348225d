"""A server is killed, or its power is cut, at every step of a life in which workers hold what they are given."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import NamedTuple

from kqs.backend import ServerBackend
from kqs.outcome import Ok, Outcome
from kqs.remote import Desk, OpenRun
from kqs.remote.tokens import Named
from kqs.states import State
from tests.support.feeding import caught_up
from tests.support.life import Life
from tests.support.parts import parts_of

JOB, GIVEN = b'{"type":"mail","ghost_delay":0}', b'{"type":"mail","id":"mine","ghost_delay":0}'
ROOM = 3


class Holder:
    """A worker that holds its runs, and what it was told of each report it made."""

    def __init__(self, life: Life, desk: Desk) -> None:
        self._life = life
        self._desk = desk
        self.held: dict[str, OpenRun] = {}
        self.told: dict[str, bool] = {}
        self.reported: dict[str, OpenRun] = {}
        desk.party().order(frozenset(["mail"]), ROOM, "holder", self._given, lambda: None, lambda run: None, held=True)

    def _given(self, runs: list[OpenRun]) -> None:
        for run in runs:
            self.held[run.token] = run
            self._life.account.begin(run.run.claim.order)
        self._life.on_step()

    def _note_told(self, token: str, ok: bool) -> None:
        self.told[token] = ok

    def report(self, count: int, outcome: Outcome) -> None:
        """Report some runs that it holds."""
        for token in list(self.held)[:count]:
            run = self.reported[token] = self.held.pop(token)
            self._life.account.end(run.run.claim.order, is_final=isinstance(outcome, Ok))
            self._desk.report(run, outcome, partial(self._note_told, token))


class Image(NamedTuple):
    """What a kill leaves in a folder, and who knew what at that moment."""

    folder: Path
    held: frozenset[str]
    told: frozenset[str]
    #: reported, and nobody was told
    doubtful: frozenset[str]
    acknowledged: frozenset[int]
    given: dict[int, str]


async def a_desk(life: Life) -> Desk:
    await life.start()
    desk = Desk(life.rig.queue, 0.0, life.rig.supervisor)
    desk.start(life.rig.info.store_id)
    return desk


async def images(folder: Path) -> list[Image]:
    """Live once; return what a kill at each step would have left."""
    life, taken = Life(folder), list[Image]()
    desk = await a_desk(life)
    holder = Holder(life, desk)

    def note() -> None:
        told = frozenset(holder.told)
        taken.append(
            Image(
                life.image(),
                frozenset(holder.held),
                told,
                frozenset(holder.reported) - told,
                frozenset(life.account.acknowledged),
                life.given.copy(),
            )
        )

    life.on_step = note
    feeder = life.feeding.feeder
    assert feeder is not None
    for lines in ((JOB,), (JOB, GIVEN, JOB), (b"[" + b",".join([JOB] * 4) + b"]",)):
        await life.insert(*lines)
        await caught_up(feeder)
        holder.report(2, Ok())
        await life.rig.queue.settle()
    life.on_step = lambda: None
    await desk.stop()
    await life.stop()
    return taken


async def run_to_the_end(life: Life, desk: Desk) -> None:
    """Report what goes on, and let a worker have what waits."""
    holder = Holder(life, desk)
    holder.held |= desk._runs
    feeder = life.feeding.feeder
    assert feeder is not None
    for _ in range(100):
        await caught_up(feeder)
        holder.report(100, Ok())
        await life.rig.queue.settle()
        life.clock.advance(0.01)
        await life.rig.queue.house.keep()
        counts = (await life.rig.queue.reads.counts()).get("mail", {})
        if not desk.runs_count and not sum(n for state, n in counts.items() if state is not State.SUCCESS):
            return
    raise AssertionError(f"not all ends: {counts}")


def backend_of(life: Life, desk: Desk) -> ServerBackend:
    return ServerBackend(parts_of(life.rig.queue, desk=desk))


def named(desk: Desk, token: str) -> Named:
    found = desk.named(token)
    assert found is not None
    return found


async def test_a_kill_at_any_step_leaves_every_held_run_to_its_worker(tmp_path: Path) -> None:
    taken = await images(tmp_path / "life")
    assert any(image.held for image in taken)
    assert any(image.doubtful for image in taken)
    for image in taken:
        life = Life(image.folder)
        desk = await a_desk(life)
        assert image.held <= desk._runs.keys(), "a held run is lost"
        assert not image.told & desk._runs.keys(), "a run goes on whose report was answered"
        backend = backend_of(life, desk)
        for token in image.told:
            assert await backend.report_unwatched(named(desk, token), Ok())
        for token in image.doubtful - desk._runs.keys():
            assert await backend.report_unwatched(named(desk, token), Ok())
        for run in desk._runs.values():
            life.account.begin(run.run.claim.order)
        await run_to_the_end(life, desk)
        await assert_each_ended_once(life, image)
        await desk.stop()
        await life.stop()


async def assert_each_ended_once(life: Life, image: Image) -> None:
    records = await life.records()
    assert image.acknowledged <= {record.order for record in records}
    for record in records:
        assert [run.state for run in record.runs] == ["success"], record


def cut_off(early: Image, late: Image, folder: Path) -> None:
    """Make what a power cut may leave: the store has forgotten its commits since `early`, the journal has all it flushed."""
    shutil.copytree(late.folder, folder)
    for file in folder.rglob("*.sqlite*"):
        file.unlink()
    for file in early.folder.rglob("*.sqlite*"):
        shutil.copy(file, folder / file.relative_to(early.folder))


async def test_after_a_power_cut_whoever_has_lost_a_claim_is_told_so_and_each_job_ends_once(tmp_path: Path) -> None:
    taken = await images(tmp_path / "life")
    lost_count = 0
    for number, late in enumerate(taken[::2]):
        early = next(image for image in taken if image.told == late.told)  # what was answered had been flushed
        cut_off(early, late, folder := tmp_path / f"cut-{number}")
        life = Life(folder)
        desk = await a_desk(life)
        backend, feeder = backend_of(life, desk), life.feeding.feeder
        assert feeder is not None
        await caught_up(feeder)
        for token in late.told:
            assert await backend.report_unwatched(named(desk, token), Ok())
        lost = late.held - desk._runs.keys()
        lost_count += len(lost)
        for _ in range(2):  # before others have the jobs, and after
            for token in lost:
                assert not await backend.report_unwatched(named(desk, token), Ok())
            for run in desk._runs.values():
                life.account.runs[run.run.claim.order] = 1
            await run_to_the_end(life, desk)
        await assert_each_ended_once(life, late)
        await desk.stop()
        await life.stop()
    assert lost_count
