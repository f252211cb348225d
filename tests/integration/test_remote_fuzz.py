"""Tokens that are cut, altered, another job's, another server's, of the future: an error of the list, and nothing changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kqs.errors import ERROR_CODES
from kqs.job import MAX_PROGRESS_BYTES, Claim, Run
from kqs.journal.format import MAGIC, decode_header
from kqs.remote.tokens import Tokens
from tests.support.serving import Served, serving
from tests.support.wire_worker import WireWorker


class Scene(NamedTuple):
    """A server with a run that is open and one that has ended, who has them, and what is said of them."""

    server: Served
    worker: WireWorker
    other: WireWorker
    open: str
    ended: str
    foreign: str
    tokens: Tokens

    def seen(self) -> list[Any]:
        """All that must not change."""
        jobs = self.other.call("jobs", {"type": "fuzz"})
        stats = self.other.call("stats")
        return [
            jobs,
            *(stats[name] for name in ("running_remote", "runs_ghost", "jobs_processing", "jobs_success")),
        ]

    def forged(self, **changes: int | str) -> str:
        """A token of this store that nobody was ever given."""
        named = self.tokens.named(self.open)
        assert named is not None
        returned = int(changes.pop("returned", 0))
        claim = Claim(**({"order": named.claim.order, "id": named.claim.id, "attempt": named.claim.attempt,
                          "epoch": named.claim.epoch} | changes))  # type: ignore[arg-type]  # fmt: skip
        return self.tokens.of(Run(claim, "fuzz", 0, b"", None, returned=returned))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder, abroad = tmp_path_factory.mktemp("fuzz"), tmp_path_factory.mktemp("abroad")
    with serving(folder) as server, serving(abroad) as far:
        worker, other, foreign = WireWorker(server.port), WireWorker(server.port), WireWorker(far.port)
        try:
            for peer in (worker, foreign):
                peer.call("insert", [{"type": "fuzz", "id": f"job-{number}", "ttr": 10_000} for number in range(2)])
            runs = [run["run"] for _ in range(2) for run in worker.reserve("fuzz")]
            (abroad_run,) = foreign.reserve("fuzz")
            assert worker.finish(runs[1]) == [True]
            yield Scene(server, worker, other, runs[0], runs[1], abroad_run["run"], Tokens(store_id_of(folder)))
            assert worker.finish(*runs) == [True, True]
            assert foreign.finish(abroad_run["run"]) == [True]
        finally:
            for peer in (worker, other, foreign):
                peer.close()


def store_id_of(folder: Path) -> str:
    """The id of a server's store, which is its journal's."""
    segment = next(path for path in sorted((folder / "journal").iterdir()) if path.read_bytes().startswith(MAGIC))
    return decode_header(segment.read_bytes()).journal_id.hex()


def codes(answer: dict[str, Any]) -> list[str]:
    """The codes in an answer of either dialect, `ok` for what is none."""
    if "jsonrpc" in answer:
        found = answer["error"]["data"] if "error" in answer else answer["result"]
    else:
        found = answer["e"] if answer["s"] == "err" else answer["m"]
    members = found if isinstance(found, list) else [found]
    return [member["code"] if isinstance(member, dict) and "code" in member else "ok" for member in members]


def said(worker: WireWorker, name: str, argument: object, *, is_rpc: bool) -> list[str]:
    call = {"jsonrpc": "2.0", "id": 1, "method": name, "params": argument} if is_rpc else {"id": 1, "n": name, "m": argument}
    worker.socket.sendall(json.dumps(call).encode() + b"\n")
    return codes(worker.line())


def member(name: str, token: object, report: str, progress: object = "none") -> dict[str, object]:
    more: dict[str, object] = {}
    if name == "finish":
        more = {"report": report}
    elif name == "touch" and progress != "none":
        more = {"progress": progress}
    return {"run": token} | more


REPORTS = st.sampled_from(["ok", "again", "fail"])
NAMES = st.sampled_from(["touch", "release", "finish"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def altered(draw: st.DrawFn) -> tuple[str, int, str, int]:
    """How a token is altered: which one, where, by what, and how much of it is cut out there."""
    which = draw(st.sampled_from(["open", "ended", "foreign"]))
    other = draw(st.text(max_size=3) | st.sampled_from(["0", "f", ".", "-", "\0", "\n"]))
    return which, draw(st.integers(0, 100)), other, draw(st.integers(0, 100))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES, report=REPORTS, how=altered(), is_rpc=st.booleans(), is_list=st.booleans(), progress=VALUES)
def test_an_altered_token_names_nothing(
    scene: Scene, name: str, report: str, how: tuple[str, int, str, int], is_rpc: bool, is_list: bool, progress: object
) -> None:
    which, at, other, cut = how
    token = getattr(scene, which)
    token = token[:at] + other + token[at + cut :]
    if token in (scene.open, scene.ended):
        return
    one = member(name, token, report, progress)
    assert said(scene.worker, name, [one] * 3 if is_list else one, is_rpc=is_rpc) == ["bad_call"] * (3 if is_list else 1)


def test_a_token_that_nobody_has_now_changes_nothing(scene: Scene) -> None:
    before = scene.seen()
    tokens = {
        "foreign": scene.foreign, "future": scene.forged(attempt=2), "far future": scene.forged(attempt=2**63 - 1),
        "past": scene.forged(attempt=1, returned=1), "later boot": scene.forged(epoch=10**6), "no boot": scene.forged(epoch=0),
        "another order": scene.forged(order=7), "another id": scene.forged(id="job-1"), "no job": scene.forged(id="none"),
        "ended": scene.ended, "huge": "0" * 1_000_000, "empty": "", "dots": "." * 5,
    }  # fmt: skip
    for label, token in tokens.items():
        for name in ("touch", "release", "finish"):
            for is_rpc in (False, True):
                for report in ("again", "fail") if label == "ended" else ("ok", "again", "fail"):
                    one = member(name, token, report, {"of": label})
                    found = said(scene.worker, name, one, is_rpc=is_rpc) + said(scene.worker, name, [one, one], is_rpc=is_rpc)
                    expected = "bad_call" if label in ("foreign", "huge", "empty", "dots") else "stale"
                    assert found == [expected] * 3, (label, name, report, found)
                    assert set(found) <= ERROR_CODES.keys()
    after = scene.seen()
    assert after[1:] == before[1:]
    assert after[0] == before[0]


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["touch", "release", "finish", "reserve", "work", "withdraw"]),
    argument=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["run", "report", "progress", "types", "call", "room", "wait", "count", "x"]), inner, max_size=4
            )
        ),
        max_leaves=6,
    ),
    is_rpc=st.booleans(),
)
def test_any_argument_is_refused_with_a_known_code_or_asks_for_nothing_that_is_there(
    scene: Scene, name: str, argument: object, is_rpc: bool
) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": name, "params": argument} if is_rpc else {"id": 1, "n": name, "m": argument}
    with_worker = WireWorker(scene.server.port)
    try:
        with_worker.socket.sendall(json.dumps(call).encode() + b"\n")
        answers = with_worker.end_input()
    finally:
        with_worker.close()
    assert len(answers) == 1
    assert set(codes(answers[0])) <= {"ok", *ERROR_CODES} - {"internal"}


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(progress=VALUES, is_rpc=st.booleans(), is_list=st.booleans(), filler=st.integers(0, 20_000))
def test_any_value_is_progress_unless_it_is_too_long(
    scene: Scene, progress: object, is_rpc: bool, is_list: bool, filler: int
) -> None:
    before = scene.other.call("job", "job-0")["progress"]
    value = [progress, "x" * filler] if filler > 10_000 else progress
    one = {"run": scene.open, "progress": value}
    (code,) = said(scene.worker, "touch", [one] if is_list else one, is_rpc=is_rpc)
    after = scene.other.call("job", "job-0")["progress"]
    if len(json.dumps(value)) > MAX_PROGRESS_BYTES:
        assert (code, after) == ("too_large", before)
    else:
        assert (code, after) == ("ok", value)


def test_a_batch_with_all_of_them_and_notifications_is_answered_whole(scene: Scene) -> None:
    bad, ended = {"run": scene.foreign, "report": "ok"}, {"run": scene.ended, "report": "ok"}
    calls = [
        (1, "reserve", {"types": ["never"]}), (None, "reserve", {"types": ["fuzz"], "wait": 100}),
        (None, "work", {"types": ["fuzz"]}), (None, "finish", bad), (2, "finish", [bad, ended]),
        (3, "touch", {"run": scene.open}), (4, "withdraw", {"call": 7}),
    ]  # fmt: skip
    batch = [{"jsonrpc": "2.0", "method": name, "params": given} | ({"id": n} if n else {}) for n, name, given in calls]
    scene.other.socket.sendall(json.dumps(batch).encode() + b"\n")
    answers: Any = scene.other.line()  # an array
    assert {answer["id"]: codes(answer) for answer in answers} == {1: [], 2: ["bad_call", "ok"], 3: ["ok"], 4: ["not_found"]}
