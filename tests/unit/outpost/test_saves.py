"""What handlers of `kqs work` save, as the server hears of it."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from kqs.outcome import Failed, Ok
from kqs.outpost import saves
from tests.support.turning import until
from tests.unit.outpost.conftest import Post, a_run


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saves, "SAVE_S", 0.03)


def order_of(post: Post, *names: str) -> list[str]:
    """Return the names of the calls that have these, in their order."""
    return [line["n"] for _, line in post.server.calls if line["n"] in names]


def touch(number: int, progress: Any) -> dict[str, Any]:
    return {"run": f"token-{number}", "progress": progress}


async def test_a_run_has_what_runs_before_it_said(post: Post) -> None:
    await post.start()
    with_it, without = await post.given(a_run(1, progress={"page": 3}), a_run(2))
    assert post.begin(with_it).context.progress == {"page": 3}
    assert post.begin(without).context.progress is None


async def test_what_handlers_save_goes_out_together_and_the_last_of_each(post: Post) -> None:
    await post.start(room=3)
    contexts = [post.begin(run).context for run in await post.given(*(a_run(n) for n in range(3)))]
    for step in range(50):
        contexts[0].save(step)
    contexts[2].save({"a": [1]})
    assert await post.called("touch") == [[touch(0, 49), touch(2, {"a": [1]})]]
    contexts[0].save(None)
    assert (await post.called("touch", 2))[1] == [touch(0, None)]


@pytest.mark.parametrize("end", ["fail", "interrupt"])
async def test_it_goes_before_the_end_of_its_run(post: Post, end: str) -> None:
    await post.start()
    (run,) = await post.given(a_run(1))
    lease = post.begin(run)
    lease.context.save("last")
    if end == "fail":
        post.source.report(lease, Failed("no"))
    else:
        post.source.interrupt(lease)
        post.source.left(lease)
    name = "finish" if end == "fail" else "release"
    await post.called(name)
    names = [line["n"] for _, line in post.server.calls]
    assert names.index("touch") < names.index(name)
    assert post.calls("touch") == [[touch(1, "last")]]


async def test_of_a_run_that_succeeded_nothing_is_said(post: Post) -> None:
    await post.start()
    runs = await post.given(a_run(1), a_run(2))
    leases = [post.begin(run) for run in runs]
    leases[0].context.save("last")
    leases[1].context.save("other")
    post.source.report(leases[0], Ok())
    assert await post.called("touch") == [[touch(2, "other")]]
    assert leases[0].context.save("late") is False


async def test_what_makes_too_long_a_line_is_said_in_lines_of_its_own(post: Post) -> None:
    await post.start()
    for number, run in enumerate(await post.given(a_run(1), a_run(2)), 1):
        post.begin(run).context.save(number)
    await post.called("touch")
    post.refuse("touch", "too_large")
    assert (await post.called("touch", 3))[1:] == [[touch(1, 1)], [touch(2, 2)]]


async def test_what_the_server_could_not_take_is_said_again(post: Post) -> None:
    await post.start()
    (run,) = await post.given(a_run(1))
    post.begin(run).context.save(1)
    await post.called("touch")
    post.answer("touch", [{"code": "busy", "message": "later"}])
    await post.called("touch", 3)
    post.refuse("touch", "busy", index=-1)
    told = await post.called("touch", 5)
    assert [one for one in told if "progress" in one[0]] == [[touch(1, 1)]] * 3


async def test_meanwhile_its_run_is_touched_without_it(post: Post) -> None:
    await post.start()
    (run,) = await post.given(a_run(1))
    post.begin(run).context.save(1)
    await post.called("touch")
    post.answer("touch", [{"code": "busy", "message": "later"}])
    assert (await post.called("touch", 2))[1] == [{"run": "token-1"}]


async def test_a_stale_run_is_lost(post: Post) -> None:
    await post.start()
    (run,) = await post.given(a_run(1))
    post.begin(run).context.save(1)
    await post.called("touch")
    post.answer("touch", [{"code": "stale", "message": "over"}])
    await until(lambda: [lease.run for lease in post.lost] == [run])


async def test_a_server_that_knows_no_progress_is_touched_all_the_same(post: Post) -> None:
    await post.start()
    (run,) = await post.given(a_run(1))
    context = post.begin(run).context
    with capture_logs() as logs:
        context.save(1)
        await post.called("touch")
        post.answer("touch", [{"code": "bad_call", "message": 'unknown field "progress"'}])
        assert (await post.called("touch", 2))[1] == [{"run": "token-1"}]
    assert [log["event"] for log in logs] == ["the server does not keep progress"]
    assert post.lost == []


async def test_long_progress_of_many_is_several_calls(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saves, "MAX_BYTES", 250)
    await post.start(room=5)
    for run in await post.given(*(a_run(n) for n in range(5))):
        post.begin(run).context.save("x" * 98)
    assert [len(members) for members in await post.called("touch", 3)] == [2, 2, 1]


async def test_what_a_held_run_saved_while_the_server_was_away_goes_before_its_end(holding: Post) -> None:
    await holding.start()
    (run,) = await holding.given(a_run(1))
    lease = holding.begin(run)
    holding.server.drop()
    await until(lambda: not holding.line.is_open)
    lease.context.save("last")
    holding.source.report(lease, Failed("no"))
    await holding.called("finish")
    assert touch(1, "last") in [one for members in holding.calls("touch") for one in members]
    assert order_of(holding, "touch", "finish") == ["touch", "finish"]


async def test_what_was_on_its_way_as_the_connection_was_lost_is_said_again(holding: Post) -> None:
    await holding.start()
    (run,) = await holding.given(a_run(1))
    lease = holding.begin(run)
    lease.context.save("last")
    assert await holding.called("touch") == [[touch(1, "last")]]
    holding.source.report(lease, Failed("no"))
    await holding.called("finish")
    holding.server.drop()
    await holding.called("finish", 2)
    assert holding.calls("touch") == [[touch(1, "last")]] * 2
    assert order_of(holding, "touch", "finish") == ["touch", "finish", "touch", "finish"]
