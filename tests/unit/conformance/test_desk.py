import json
from typing import Any

import pytest

from kqs.conformance.desk import Ask, Desk, Given
from kqs.conformance.speech import Speech


class Mouth:
    """A connection that keeps what was said to it."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.is_open = True

    def send(self, data: bytes) -> None:
        self.said += [json.loads(line) for line in data.splitlines()]

    def close(self) -> None:
        self.is_open = False


class Talk:
    """A desk, and a connection to it."""

    def __init__(self) -> None:
        self.desk = Desk()
        self.mouth = Mouth()

    def says(self, name: str, argument: object, now: float = 0.0, call_id: int = 1) -> Any:
        """Return what was said to a call, if anything."""
        self.mouth.said.clear()
        for call in Speech().receive_data(json.dumps({"id": call_id, "n": name, "m": argument}).encode() + b"\n"):
            self.desk.hear(self.mouth, call, now)
        return self.mouth.said[-1].get("e") or self.mouth.said[-1]["m"] if self.mouth.said else None

    def asks(self, name: str = "work", **argument: object) -> Ask:
        assert self.says(name, {"types": ["echo"], **argument}) is None
        ask = self.desk.ask_with_room()
        assert ask is not None
        return ask

    def gets(self, ask: Ask, ttr: float = 30.0) -> Given:
        (run,), line = self.desk.give(ask, [{"type": "echo", "data": 1, "ttr": ttr}], 0.0)
        self.mouth.send(line)
        return run


@pytest.fixture
def talk() -> Talk:
    return Talk()


def test_a_reserve_is_over_with_its_answer_and_work_is_not(talk: Talk) -> None:
    talk.gets(talk.asks("reserve"))
    assert talk.desk.ask_with_room() is None
    run = talk.gets(talk.asks("work", room=1))
    assert talk.desk.ask_with_room() is None
    assert talk.says("finish", {"run": run.token, "report": "ok"}) is True
    assert talk.desk.ask_with_room() is run.ask


def test_a_touch_counts_from_when_it_came(talk: Talk) -> None:
    run = talk.gets(talk.asks(), ttr=2.0)
    assert talk.says("touch", {"run": run.token}, now=1.5) == {"left": 2.0, "cancel": False}
    talk.says("touch", {"run": run.token}, now=4.0)
    assert (run.touches, run.late_s) == (2, 0.5)


def test_a_list_is_answered_with_a_list(talk: Talk) -> None:
    run = talk.gets(talk.asks())
    ok, stale = talk.says("release", [{"run": run.token}, {"run": "x"}])
    assert (ok, stale["code"]) == (True, "bad_call")
    assert run.is_settled
    assert talk.desk.faults


def test_runs_of_a_lost_connection_are_stale(talk: Talk) -> None:
    run = talk.gets(talk.asks())
    talk.desk.lost(talk.mouth)
    assert talk.desk.ask_with_room() is None
    for name, more in (("touch", {}), ("release", {}), ("finish", {"report": "ok"})):
        assert talk.says(name, {"run": run.token, **more})["code"] == "stale"
    assert talk.desk.faults == []


def test_a_withdrawn_call_is_answered_and_one_that_is_over_is_not_found(talk: Talk) -> None:
    talk.asks("reserve")
    assert talk.says("withdraw", {"call": 1}, call_id=2) is True
    assert [said["m"] for said in talk.mouth.said] == [[], True]
    assert talk.says("withdraw", {"call": 1}, call_id=3)["code"] == "not_found"


@pytest.mark.parametrize(
    ("name", "argument", "code"),
    [("work", {"types": []}, "bad_call"), ("finish", {"run": "x", "report": "done"}, "bad_call"), ("wrok", {}, "unknown_call")],
)
def test_wrong_calls_are_refused_and_kept_as_faults(talk: Talk, name: str, argument: object, code: str) -> None:
    assert talk.says(name, argument)["code"] == code
    assert talk.desk.faults[0].startswith(code)


def test_ping_and_echo_are_answered(talk: Talk) -> None:
    assert talk.says("ping", None) == "pong"
    assert talk.says("echo", [1]) == [1]


def test_a_notification_asks_for_nothing(talk: Talk) -> None:
    line = b'{"jsonrpc":"2.0","method":"work","params":{"types":["echo"]}}\n'
    for call in Speech().receive_data(line + b"nonsense\n"):
        talk.desk.hear(talk.mouth, call, 0.0)
    assert talk.desk.asks == []
    assert len(talk.desk.faults) == 2


def test_a_result_may_be_refused_and_then_a_failure_is_taken(talk: Talk) -> None:
    run = talk.gets(talk.asks("work", room=1))
    run.on_result = "too_large"
    assert talk.says("finish", {"run": run.token, "report": "ok"})["code"] == "too_large"
    assert (run.is_done, run.has_failed, run in run.ask.open_runs) == (False, False, True)
    assert talk.says("finish", {"run": run.token, "report": "fail"}) is True
    assert (run.is_done, run.has_failed, run in run.ask.open_runs) == (False, True, False)
    assert talk.desk.faults == []


def test_a_run_whose_result_was_refused_goes_with_its_connection(talk: Talk) -> None:
    run = talk.gets(talk.asks())
    run.on_result = "too_large"
    talk.says("finish", {"run": run.token, "report": "ok"})
    talk.desk.lost(talk.mouth)
    assert talk.says("finish", {"run": run.token, "report": "fail"})["code"] == "stale"
    assert not run.has_failed


def test_too_long_a_line_is_refused_without_its_id_and_changes_nothing(talk: Talk) -> None:
    run = talk.gets(talk.asks())
    talk.desk.longest_bytes = 100
    assert talk.says("finish", {"run": run.token, "report": "ok", "result": "x" * 100})["code"] == "too_large"
    assert "id" not in talk.mouth.said[-1]
    assert (run.reports, talk.desk.faults) == ([], [])


def test_a_work_without_room_asks_for_no_job(talk: Talk) -> None:
    assert talk.says("work", {"room": 0}) is None
    assert talk.desk.ask_with_room() is None
    talk.desk.refuse_asks = "draining"
    assert talk.says("work", {"room": 0}, call_id=2)["code"] == "draining"
    assert (talk.desk.asks_count, talk.desk.refused_asks) == (0, 0)
    assert talk.says("withdraw", {"call": 1}, call_id=3) is True
    assert talk.desk.faults == []
