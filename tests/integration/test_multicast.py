"""Types with subscribers over TCP: an insert becomes a job for each, and its id tells which."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.asking import Peer, RefusedError, ask, eventually, peer_of, until
from tests.support.mongodb import a_database, mongodb
from tests.support.serving import Served, serving

HANDLERS = """
import kqs

@kqs.handler("bill")
async def bill(data):
    return {"billed": data}

@kqs.handler("order")
async def order(data):
    raise ValueError("it has subscribers")
"""
SETTINGS = {
    "WORKER__MODULES": '["shop"]',
    "TYPES__order": '{"fan_out":["bill","ship"]}',
    "TYPES__ship": '{"retries":7,"prio":"high","max_waiting":3}',
}


@pytest.fixture(params=["sqlite", "mongodb"])
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Served]:
    (tmp_path / "shop.py").write_text(HANDLERS)
    if request.param == "sqlite":
        with serving(tmp_path, **SETTINGS) as server:
            yield server
    else:
        with (
            mongodb(tmp_path) as uri,
            serving(tmp_path, STORE__KIND="mongodb", STORE__URI=a_database(uri), **SETTINGS) as server,
        ):
            yield server


def copies_of(peer: Peer, job_id: str) -> dict[str, Any]:
    record = peer.call("job", job_id)
    assert (record["type"], record["state"]) == ("order", "success")
    copies: dict[str, Any] = record["result"]["copies"]
    return {type_: peer.call("job", copy_id) for type_, copy_id in copies.items()}


def test_an_insert_becomes_a_job_for_each_subscriber(served: Served, peer: Peer) -> None:
    peer.send("insert", {"type": "order", "id": "mine", "data": 7, "wait": 30, "ttr": 99})
    assert peer.receive() == "mine"
    end = peer.receive()
    assert (end["state"], end["result"]["copies"].keys()) == ("success", {"bill", "ship"})
    until(served, jobs_success=2)
    copies = copies_of(peer, "mine")
    assert (copies["bill"]["state"], copies["bill"]["result"]) == ("success", {"billed": 7})
    ship = copies["ship"]
    assert (ship["state"], ship["data"], ship["options"]["retries"], ship["options"]["ttr"]) == ("new", 7, 7, 99)
    assert ship["options"]["prio"] == 9000
    for _ in range(3):
        assert peer.call("insert", {"type": "order", "id": "mine", "answer": "full"}) == {"id": "mine", "created": False}
    ids = peer.call(
        "insert", [{"type": "mail"}, {"type": "order", "data": [1]}, {"type": "order", "id": "mine", "answer": "full"}]
    )
    assert (ids[2]["id"], ids[2]["created"], copies_of(peer, ids[1])["ship"]["data"]) == ("mine", False, [1])
    peer.insert("order")
    with pytest.raises(RefusedError, match="busy: type 'ship' has max_waiting = 3: 3 of its jobs wait"):
        peer.insert("order")
    (row,) = peer.call("types", {"type": "order"})
    assert (row["fan_out"], row["counts"]) == (["bill", "ship"], {"success": 3})
    stats = until(served, jobs_success=6)
    assert (stats["jobs_new"], stats["jobs_fail"]) == (4, 0)


def test_a_subscriber_has_what_is_inserted_between_its_calls(served: Served, peer: Peer) -> None:
    for verb, has_it in (("subscribe", True), ("unsubscribe", False)):
        for is_first in (True, False):
            answer = {"type": "order", "subscriber": "late", "subscribed": has_it, "changed": is_first}
            assert peer.call(verb, {"type": "order", "subscriber": "late"}) == answer
        job_id = peer.insert("order")
        copies = eventually(partial(peer.call, "job", job_id), lambda job: job["result"]["copies"])["result"]["copies"]
        assert copies.keys() == {"bill", "ship"} | ({"late"} if has_it else set())
    for type_, other in (("order", "order"), ("bill", "x"), ("x", "order")):
        with pytest.raises(RefusedError, match="bad_call: a subscriber has no subscribers itself"):
            peer.call("subscribe", {"type": type_, "subscriber": other})
    with pytest.raises(RefusedError, match="bad_call: 'bill' stands in the configuration"):
        peer.call("unsubscribe", {"type": "order", "subscriber": "bill"})


def test_lines_are_multiplied_over_a_kill_and_over_a_change_of_settings(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(HANDLERS)
    settings = SETTINGS | {"TYPES__ship": "{}"}
    lines = [json.dumps({"id": n, "n": "insert", "m": {"type": ("order", "mail")[n % 2], "data": n}}) for n in range(20)]
    with serving(tmp_path, **settings) as server:
        answers = [json.loads(answer) for answer in server.ask("\n".join(lines))]
        ask(server, "subscribe", {"type": "order", "subscriber": "stored"})
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(30)
    ids = [answer["m"] for answer in sorted(answers, key=lambda answer: answer["id"])]
    with serving(tmp_path, **settings | {"TYPES__order": '{"fan_out":["late"]}'}) as server, peer_of(server) as peer:
        eventually(lambda: peer.call("stats")["jobs_new"], lambda count: count == 20)
        for n in range(0, 20, 2):
            assert {type_: copy["data"] for type_, copy in copies_of(peer, ids[n]).items()} == {"bill": n, "ship": n}
        assert copies_of(peer, peer.insert("order")).keys() == {"late", "stored"}
        assert ask(server, "stats")["jobs_new"] == 22
