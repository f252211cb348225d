"""Every row of the table of transitions in kqs/states.py, driven over TCP: a row without a case here is a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kqs.states import TRANSITIONS, Event, State
from tests.support.asking import WITHIN_S, Peer, peer_of, telling
from tests.support.serving import Served, serving
from tests.support.wire_worker import WireWorker, working_at

#: what must not be over before it was looked at may last so long, in s: the next one is tried where the machine was too busy
LASTING_S = (0.25, 2.0, 20.0)

#: the first of two jobs that were claimed together holds up the second, until that has expired
HANDLERS = """
import time

import kqs


@kqs.handler("holds_up")
async def hold_up(data):
    time.sleep(data)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("transitions")
    (folder / "handlers.py").write_text(HANDLERS)
    with serving(folder, WORKER__MODULES='["handlers"]', WORKER__CONCURRENCY="2") as server, telling(server):
        yield server


class Driver:
    """An owner of jobs of one type, a worker for them, and what is told of them."""

    def __init__(self, server: Served, type_: str, owner: Peer, worker: WireWorker) -> None:
        self.type = type_
        self.owner = owner
        self.worker = worker
        self._server = server
        self._events = worker.send("events", {"types": [type_]})

    def into(self, state: State, **fields: object) -> str:
        """Insert a job, bring it into a state, and return its id."""
        return _INTO[state](self, fields)

    def new(self, fields: dict[str, object]) -> str:
        return self.owner.insert(self.type, **fields)

    def delayed(self, fields: dict[str, object]) -> str:
        return self.new({"delay": 600} | fields)

    def processing(self, fields: dict[str, object]) -> str:
        job_id = self.new(fields)
        self.claim(job_id)
        return job_id

    def retrying(self, fields: dict[str, object]) -> str:
        job_id = self.processing(fields)
        self.finish(report="again")
        return job_id

    def ghost(self, fields: dict[str, object]) -> str:
        job_id = self.new(fields)
        self.lose(job_id)
        self.hear("ghost")
        return job_id

    def success(self, fields: dict[str, object]) -> str:
        job_id = self.processing(fields)
        self.finish(report="ok")
        return job_id

    def fail(self, fields: dict[str, object]) -> str:
        job_id = self.processing(fields)
        self.finish(report="fail", final=True)
        return job_id

    def cancelled(self, fields: dict[str, object]) -> str:
        job_id = self.new(fields)
        self.owner.call("cancel", job_id)
        return job_id

    def claim(self, job_id: str) -> None:
        (run,) = self.worker.reserve(self.type)
        assert run["id"] == job_id
        self.token = run["run"]

    def finish(self, **report: object) -> None:
        assert self.worker.call("finish", {"run": self.token} | report) is True

    def lose(self, job_id: str) -> None:
        """Let somebody take the job who vanishes."""
        with working_at(self._server) as other:
            (run,) = other.reserve(self.type)
            assert run["id"] == job_id
            other.vanish()

    def state(self, job_id: str) -> State:
        return State[self.record(job_id)["state"].upper()]

    def record(self, job_id: str) -> Any:
        return self.owner.call("job", job_id)

    def end(self, job_id: str) -> Any:
        """Wait for a job's end, and return its record."""
        return self.owner.call("job", {"id": job_id, "wait": WITHIN_S})

    def hear(self, event: str) -> None:
        """Wait until that is told."""
        while self.worker.next(self._events)["event"] != event:
            pass


_INTO: dict[State, Callable[[Driver, dict[str, object]], str]] = {
    State.NEW: Driver.new,
    State.DELAYED: Driver.delayed,
    State.PROCESSING: Driver.processing,
    State.RETRY: Driver.retrying,
    State.GHOST: Driver.ghost,
    State.SUCCESS: Driver.success,
    State.FAIL: Driver.fail,
    State.CANCELLED: Driver.cancelled,
}


@pytest.fixture
def driver(server: Served, request: pytest.FixtureRequest) -> Iterator[Driver]:
    with peer_of(server) as owner, working_at(server) as worker:
        yield Driver(server, request.node.callspec.id, owner, worker)


def _claims(driver: Driver, state: State) -> str:
    job_id = _in_time(driver, state, "delay") if state is State.DELAYED else _held(driver, state)
    driver.claim(job_id)
    return job_id


def _expires(driver: Driver, state: State) -> str:
    job_id = _in_time(driver, state, "expire")
    assert driver.end(job_id)["error"] == "expired"
    return job_id


def _in_time(driver: Driver, state: State, field: str) -> str:
    """Bring a job into a state that it has for a short while, and see it there."""
    for lasting_s in LASTING_S:
        job_id = driver.into(state, **{field: lasting_s})
        if driver.state(job_id) is state:
            return job_id
        driver.owner.call("delete", job_id)
    raise AssertionError(f"a job does not stay {state.word} for {LASTING_S[-1]} s")


def _is_cancelled(driver: Driver, state: State) -> str:
    job_id = _held(driver, state)
    assert driver.owner.call("cancel", job_id)["ids"] == [job_id]
    return job_id


def _is_cancelled_as_it_runs(driver: Driver, state: State) -> str:
    job_id = _is_cancelled(driver, state)
    assert driver.worker.call("touch", {"run": driver.token})["cancel"] is True
    driver.finish(report="again")
    return job_id


def _is_revived(driver: Driver, state: State) -> str:
    job_id = _held(driver, state)
    assert driver.owner.call("retry", job_id)["ids"] == [job_id]
    return job_id


def _reports(**report: object) -> Callable[[Driver, State], str]:
    def drive(driver: Driver, state: State) -> str:
        job_id = _held(driver, state, retries=1)
        driver.finish(**report)
        return job_id

    return drive


def _is_given_back(driver: Driver, state: State) -> str:
    job_id = _held(driver, state)
    assert driver.worker.call("release", {"run": driver.token}) is True
    assert driver.record(job_id)["interrupted"] == 1
    return job_id


def _is_lost(ghosts: int, heard: str) -> Callable[[Driver, State], str]:
    def drive(driver: Driver, state: State) -> str:
        job_id = driver.into(State.NEW, ghosts=ghosts)
        driver.lose(job_id)
        driver.hear(heard)
        assert driver.record(job_id)["runs"][-1]["state"] == State.GHOST.word
        return job_id

    return drive


def _expires_in_its_lane(driver: Driver, state: State) -> str:
    """A job that was claimed expires before its run has begun."""
    held_up_s = 0.6
    jobs = [{"type": "holds_up", "data": held_up_s}, {"type": "holds_up", "data": 0, "expire": held_up_s / 2}]
    first, second = driver.owner.call("insert", jobs)
    ended = driver.end(second)
    assert (ended["error"], ended["attempt"], ended["runs"]) == ("expired", 0, [])
    assert driver.end(first)["state"] == State.SUCCESS.word
    return str(second)


def _held(driver: Driver, state: State, **fields: object) -> str:
    job_id = driver.into(state, **fields)
    assert driver.state(job_id) is state
    return job_id


Driven = Callable[[Driver, State], str]
_OF_WAITING: dict[Event, Driven] = {Event.CLAIM: _claims, Event.EXPIRE: _expires, Event.CANCEL: _is_cancelled}
#: how each is driven; returns the job's id
DRIVEN: dict[State, dict[Event, Driven]] = {
    State.NEW: _OF_WAITING,
    State.DELAYED: _OF_WAITING,
    State.RETRY: _OF_WAITING,
    State.GHOST: _OF_WAITING,
    State.PROCESSING: {
        Event.OK: _reports(report="ok"),
        Event.AGAIN: _reports(report="again"),
        Event.RETRY: _reports(report="fail"),
        Event.FAIL: _reports(report="fail", final=True),
        Event.GHOST: _is_lost(1, "ghost"),
        Event.GHOSTED_OUT: _is_lost(0, "fail"),
        Event.INTERRUPT: _is_given_back,
        Event.EXPIRE: _expires_in_its_lane,
        Event.CANCEL: _is_cancelled_as_it_runs,
    },
    State.SUCCESS: {},
    State.FAIL: {Event.REVIVE: _is_revived},
    State.CANCELLED: {Event.REVIVE: _is_revived},
}


@pytest.mark.parametrize(
    ("state", "event"),
    [
        pytest.param(state, event, id=f"{state.word}-{event.name.lower()}")
        for state, events in TRANSITIONS.items()
        for event in events
    ],
)
def test_a_transition_over_tcp(state: State, event: Event, driver: Driver) -> None:
    job_id = DRIVEN[state][event](driver, state)
    assert driver.state(job_id) is TRANSITIONS[state][event]


#: what may be tried in a state, and changes nothing where the table has no such row
_TRIED = {Event.CANCEL: "cancel", Event.REVIVE: "retry"}


@pytest.mark.parametrize(
    ("state", "event"),
    [
        pytest.param(state, event, id=f"{state.word}-no-{event.name.lower()}")
        for state in State
        for event in _TRIED
        if event not in TRANSITIONS[state]
    ],
)
def test_what_the_table_does_not_have_changes_nothing(state: State, event: Event, driver: Driver) -> None:
    job_id = driver.into(state)
    before = driver.record(job_id)
    assert driver.owner.call(_TRIED[event], job_id) == {"count": 0, "ids": [], "skipped": 0}
    assert driver.record(job_id) == before
