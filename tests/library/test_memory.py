"""`kqs.open(":memory:")`: a queue for trials, which keeps nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

import kqs
import kqs.blocking
from kqs.errors import StartupError
from kqs.library import passing


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where such queues have their folders in this test; what a program finds around it is a folder beside that."""
    base = tmp_path / "memory"
    base.mkdir()
    (tmp_path / "program").mkdir()
    monkeypatch.setattr(passing, "_IN_MEMORY", base)
    monkeypatch.chdir(tmp_path / "program")
    return base


def names_of(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def double(data: int) -> int:
    return data * 2


async def test_it_does_what_a_queue_does_and_leaves_nothing(base: Path) -> None:
    async with kqs.open(":memory:", types={"double": {"ttr": 5}}) as queue:
        queue.add_handler("double", double)
        job = await queue.add_job("double", 21)
        assert await queue.run_jobs() == 1
        assert (await job.wait(10)).result == 42
        assert len(names_of(base)) == 1
    assert names_of(base) == []
    assert names_of(Path()) == []


async def test_each_is_one_of_its_own(base: Path) -> None:
    async with kqs.open(":memory:") as one, kqs.open(":memory:") as two:
        await one.add_job("mail", id="same")
        assert await two.job("same") is None


async def test_long_data_is_taken(base: Path) -> None:
    async with kqs.open(":memory:") as queue:
        jobs = [await queue.add_job("mail", "x" * 5_000_000) for _ in range(3)]
        shown = [await queue.job(job.id) for job in jobs]
        assert [len(record.data) for record in shown if record is not None] == [5_000_000] * 3


async def test_one_that_cannot_be_opened_leaves_nothing(base: Path) -> None:
    with pytest.raises(StartupError):
        await kqs.open(":memory:", store={"uri": str(base.parent)}).open()
    assert names_of(base) == []


async def test_a_path_is_a_folder(base: Path) -> None:
    async with kqs.open(Path(":memory:")):
        pass
    assert names_of(base) == []
    assert names_of(Path()) == [":memory:"]


def test_the_blocking_face_has_it(base: Path) -> None:
    with kqs.blocking.open(":memory:") as queue:
        queue.add_handler("double", double)
        job = queue.add_job(double, 4)
        queue.run_jobs()
        assert job.result(10) == 8
    assert names_of(base) == []


async def test_without_a_folder_in_memory_it_has_a_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passing, "_IN_MEMORY", tmp_path / "none")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with kqs.open(":memory:"):
        assert len(names_of(tmp_path)) == 1
    assert names_of(tmp_path) == []
