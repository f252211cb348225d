"""How many jobs of a type may wait, over TCP: more are refused, or the oldest make room; over a kill."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.asking import Peer, RefusedError, ask, eventually, peer_of, until
from tests.support.serving import Served, serving

SETTINGS = {
    "TYPES__mail": '{"max_waiting":3}',
    "TYPES__news": '{"max_waiting":3,"drop":"oldest"}',
    "TYPES__echo": '{"max_waiting":2}',
}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, **SETTINGS) as server:
        yield server


def limits(peer: Peer, type_: str) -> dict[str, Any]:
    (row,) = peer.call("types", {"type": type_})
    found: dict[str, Any] = row["limits"]
    return found


def taken(peer: Peer, count: int) -> list[bool]:
    """Return of so many answers which are none but a refusal as busy."""
    found = []
    for _ in range(count):
        try:
            peer.receive()
        except RefusedError as error:
            found.append(error.code != "busy")
        else:
            found.append(True)
    return found


def refusal(peer: Peer) -> str | None:
    """Insert a job; return why it is refused, None if it is not."""
    try:
        peer.insert("mail")
    except RefusedError as error:
        return str(error)
    return None


def test_more_than_may_wait_are_refused_and_others_are_taken(peer: Peer) -> None:
    for _ in range(10):
        peer.send("insert", {"type": "mail"})
    assert sorted(taken(peer, 10)) == [False] * 7 + [True] * 3
    with pytest.raises(RefusedError, match="busy: type 'mail' has max_waiting = 3: 3 of its jobs wait; try again later"):
        peer.insert("mail", delay=100)
    peer.call("insert", [{"type": "video"}] * 5)
    with pytest.raises(RefusedError, match="busy"):
        peer.call("insert", [{"type": "video"}, {"type": "mail"}])
    assert limits(peer, "mail") == {"weight": 1, "max_waiting": 3, "drop": "new", "refused": 9, "dropped": 0}
    stats = peer.call("stats")
    assert (stats["jobs_new"], stats["refused_waiting"], stats["dropped_waiting"]) == (8, 9, 0)


def test_lines_that_come_at_once_stand_for_themselves(served: Served) -> None:
    lines = [json.dumps({"id": n, "n": "insert", "m": {"type": ("mail", "video")[n % 2]}}) for n in range(10)]
    answers = map(json.loads, served.ask("\n".join(lines)))
    assert sorted((answer["id"], answer["s"]) for answer in answers) == [
        (n, "err" if n in (6, 8) else "end") for n in range(10)
    ]


def test_whatever_makes_jobs_wait_no_more_makes_room(peer: Peer) -> None:
    ids = peer.call("insert", [{"type": "mail"}, {"type": "mail", "delay": 900}, {"type": "mail", "resource": "r"}])
    peer.call("cancel", {"ids": ids[:1]})
    ids.append(peer.insert("mail"))
    peer.call("delete", {"ids": ids[1:2]})
    peer.insert("mail")
    (run,) = peer.call("reserve", {"types": ["mail"], "wait": 10})
    peer.insert("mail", delay=900)
    peer.call("release", {"run": run["run"]})
    with pytest.raises(RefusedError, match="4 of its jobs wait"):
        peer.insert("mail")


def test_an_id_that_is_known_and_a_key_that_is_taken_fill_nothing(peer: Peer) -> None:
    for n in range(4):
        assert peer.call("insert", {"type": "mail", "id": "mine", "answer": "full"})["created"] is not bool(n)
        peer.insert("mail", unique="key")
    peer.insert("mail")
    with pytest.raises(RefusedError, match="3 of its jobs wait"):
        peer.insert("mail", id="mine")


def test_what_meets_a_free_lane_does_not_wait(peer: Peer) -> None:
    for n in range(20):
        assert peer.call("insert", {"type": "echo", "data": n, "wait": 0}) is not None
    eventually(lambda: peer.call("stats")["jobs_success"], lambda count: count == 20)


def test_the_oldest_make_room_and_whoever_waits_for_them_hears_why(served: Served, peer: Peer) -> None:
    with peer_of(served) as watcher, peer_of(served) as waiter:
        watcher.send("events", {"types": ["news"], "events": ["cancelled"]})
        until(served, calls_events=1)
        waiter.send("insert", {"type": "news", "id": "first", "wait": 60})
        assert waiter.receive() == "first"
        peer.call("insert", [{"type": "news", "id": f"news-{n}"} for n in range(4)])
        with pytest.raises(RefusedError, match="cancelled: dropped: type 'news' has max_waiting = 3"):
            waiter.receive()
        told = [watcher.receive() for _ in range(2)]
    assert [(one["id"], one["job"]["error"][:7]) for one in told] == [("first", "dropped"), ("news-0", "dropped")]
    assert peer.call("job", "first")["state"] == "cancelled"
    assert "has max_waiting = 3" in peer.call("explain", "first")["text"]
    assert limits(peer, "news") == {"weight": 1, "max_waiting": 3, "drop": "oldest", "refused": 0, "dropped": 2}
    stats = peer.call("stats")
    assert (stats["jobs_new"], stats["jobs_cancelled"], stats["dropped_waiting"]) == (3, 2, 2)


def test_what_waits_is_counted_over_a_kill(tmp_path: Path) -> None:
    with serving(tmp_path, **SETTINGS) as server:
        ask(server, "insert", [{"type": "mail"}] * 2)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(30)
    with serving(tmp_path, **SETTINGS) as server, peer_of(server) as peer:
        assert eventually(lambda: refusal(peer), lambda text: text is None or "is not known yet" not in text) is None
        assert refusal(peer) == "busy: type 'mail' has max_waiting = 3: 3 of its jobs wait; try again later"
