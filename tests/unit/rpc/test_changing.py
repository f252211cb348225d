"""How far a change of many jobs is, told to whoever asks."""

from __future__ import annotations

import json

import pytest

from kqs.queue.changes import Done
from kqs.rpc import changing
from tests.support.conversing import Conversing


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Conversing:
    monkeypatch.setattr(changing, "PROGRESS_S", 0.0)
    talk = Conversing()
    talk.backend.done = Done(7, ["a"], 1)
    return talk


CALLS = [("cancel", {"all": True}), ("retry", {"all": True}), ("delete", {"all": True}), ("purge", {"type": "mail"})]


@pytest.mark.parametrize(("name", "argument"), CALLS)
async def test_a_change_says_how_far_it_is_if_it_is_asked_to(talk: Conversing, name: str, argument: dict[str, object]) -> None:
    call = {"id": 1, "n": name, "m": {**argument, "progress": True}}
    *told, end = await talk.settled(json.dumps(call).encode() + b"\n")
    assert [(answer["id"], answer["s"], answer["m"]) for answer in told] == [(1, "ok", {"count": 7})] * 2
    assert (end["s"], end["m"]) == ("end", 7 if name == "purge" else {"count": 7, "ids": ["a"], "skipped": 1})


@pytest.mark.parametrize(("name", "argument"), CALLS)
async def test_a_change_says_nothing_before_its_end_otherwise(talk: Conversing, name: str, argument: dict[str, object]) -> None:
    (end,) = await talk.settled(json.dumps({"id": 1, "n": name, "m": argument}).encode() + b"\n")
    assert end["s"] == "end"


async def test_json_rpc_hears_how_far_it_is_as_notifications(talk: Conversing) -> None:
    call = {"jsonrpc": "2.0", "id": 5, "method": "retry", "params": {"all": True, "progress": True}}
    *told, end = await talk.settled(json.dumps(call).encode() + b"\n")
    assert [(one["method"], one["params"]) for one in told] == [("event", {"call": 5, "value": {"count": 7}})] * 2
    assert end["result"]["count"] == 7
    call = {"jsonrpc": "2.0", "method": "retry", "params": {"all": True, "progress": True}}
    assert await talk.settled(json.dumps(call).encode() + b"\n") == []


async def test_progress_is_told_now_and_then(talk: Conversing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changing, "PROGRESS_S", 3600.0)
    call = b'{"id":1,"n":"retry","m":{"all":true,"progress":true}}\n'
    assert [answer["s"] for answer in await talk.settled(call)] == ["end"]
