"""Schedules over TCP and from the command line, against a real server; and over its restarts."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.asking import Peer, RefusedError, ask, eventually, peer_of
from tests.support.serving import SERVE_ENVIRON, Kqs, Served, serving
from tests.support.ticking import NOTING, first_runs

CONFIG = """
[schedules.beat]
every = 3600.0
from = "2026-01-01T00:00:00Z"
type = "tick"
data = { from = "config" }
prio = "low"
"""
JOB = {"type": "tick", "keep": 60}


def serving_in(folder: Path, config: str = CONFIG, **settings: str) -> Any:
    (folder / "noting.py").write_text(NOTING)
    (folder / "kqs.toml").write_text(config)
    environ = SERVE_ENVIRON | {"PYTHONPATH": f"{SERVE_ENVIRON['PYTHONPATH']}:{folder}", "RAN": str(folder / "ran")}
    command = (sys.executable, "-m", "kqs", "serve", "--config", "kqs.toml")
    return serving(folder, command, environ, **({"WORKER__MODULES": '["noting"]'} | settings))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("schedules")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    with serving_in(folder) as served:
        yield served


def one(peer: Peer, name: str, count: int = 1) -> dict[str, Any]:
    (found,) = peer.call("schedules", {"name": name, "next": count})
    return dict(found)


def until_ticked(peer: Peer, name: str, since: str | None = None) -> dict[str, Any]:
    """Return a schedule once it has ticked after the tick `since`, and its job has run."""
    return eventually(partial(one, peer, name), lambda seen: (seen["last"] or {"id": since})["id"] != since)


def test_job_is_inserted_at_each_instant_under_an_id_made_of_name_and_instant(peer: Peer) -> None:
    made = peer.call("schedule", {"name": "quick", "every": 0.2, "job": JOB | {"data": {"n": 1}}})
    first = until_ticked(peer, "quick")
    second = until_ticked(peer, "quick", first["last"]["id"])
    peer.call("unschedule", "quick")
    for seen in (first, second):
        at = seen["last"]["at"]
        assert (at - made["created_at"]) / 0.2 == pytest.approx(round((at - made["created_at"]) / 0.2), abs=0.01)
        name, instant = seen["last"]["id"].split(":", 1)
        assert name == "quick"
        assert datetime.fromisoformat(instant).timestamp() == pytest.approx(at)
        job = peer.call("job", {"id": seen["last"]["id"], "wait": 10})
        assert (job["state"], job["data"], job["options"]["keep"]) == ("success", {"n": 1}, 60)
    assert second["last"]["at"] > first["last"]["at"]


def test_schedule_is_answered_and_shown_as_it_is(peer: Peer) -> None:
    asked = {"name": "night", "cron": "30 2 * * *", "tz": "Europe/Berlin", "catch_up": "all", "overlap": "skip", "job": JOB}
    made = peer.call("schedule", asked)
    assert made == one(peer, "night")
    assert {name: made[name] for name in asked} == asked
    assert (made["origin"], made["last"], made["missed"], made["skipped"]) == ("call", None, 0, 0)
    shown = one(peer, "night", 100)["next"]
    assert shown == sorted(set(shown))
    assert len(shown) == 100
    assert {datetime.fromtimestamp(at).astimezone(None).timestamp() for at in shown} == set(shown)
    assert [found["name"] for found in peer.call("schedules", {"limit": 1})] == ["beat"]
    assert [found["name"] for found in peer.call("schedules", {"after": "beat"})] == ["night"]
    assert peer.call("schedules", {"name": "night", "next": 0})[0]["next"] == []
    assert peer.call("unschedule", {"name": "night"}) == {"name": "night"}


def test_another_one_takes_the_place_of_a_name_and_the_same_one_changes_nothing(peer: Peer) -> None:
    first = peer.call("schedule", {"name": "again", "every": 3600, "job": JOB})
    assert peer.call("schedule", {"name": "again", "every": 3600, "job": JOB}) == first
    other = peer.call("schedule", {"name": "again", "every": 1800, "job": JOB})
    assert other["created_at"] > first["created_at"]
    assert other["next"][0] == pytest.approx(other["created_at"] + 1800, abs=0.002)
    peer.call("unschedule", "again")


def test_from_says_when_every_begins(peer: Peer) -> None:
    made = peer.call("schedule", {"name": "from", "every": 86400, "from": "2030-01-01T06:00:00+01:00", "job": JOB})
    assert made["next"] == [datetime.fromisoformat("2030-01-01T05:00:00+00:00").timestamp()]
    peer.call("unschedule", "from")


def test_suspended_one_does_not_tick_and_catches_up_nothing(peer: Peer, folder: Path) -> None:
    peer.call("schedule", {"name": "still", "every": 0.1, "catch_up": "all", "job": JOB})
    until_ticked(peer, "still")
    assert peer.call("suspend", {"schedule": "still"}) == {"schedule": "still", "suspended": True, "changed": True}
    assert peer.call("suspend", {"schedule": "still"})["changed"] is False
    stopped = one(peer, "still")
    assert stopped["next"] == []
    peer.call("schedule", {"name": "meanwhile", "every": 0.2, "job": JOB})
    until_ticked(peer, "meanwhile")
    assert one(peer, "still")["last"]["id"] == stopped["last"]["id"]
    assert peer.call("resume", {"schedule": "still"}) == {"schedule": "still", "suspended": False, "changed": True}
    resumed = until_ticked(peer, "still", stopped["last"]["id"])
    assert resumed["last"]["at"] > stopped["suspended_at"]
    assert resumed["missed"] == stopped["missed"]
    peer.call("unschedule", "still")
    peer.call("unschedule", "meanwhile")


def test_fire_inserts_the_job_now(peer: Peer) -> None:
    peer.call("schedule", {"name": "byhand", "cron": "@yearly", "job": JOB | {"data": 5}})
    job_id = peer.call("fire", "byhand")
    assert peer.call("job", {"id": job_id, "wait": 10})["data"] == 5
    assert one(peer, "byhand")["last"] is None
    peer.call("unschedule", "byhand")


def test_skipping_overlap_waits_for_the_end_of_the_last_job(peer: Peer, folder: Path) -> None:
    gate = folder / "gate"
    peer.call("schedule", {"name": "long", "every": 0.1, "overlap": "skip", "job": {"type": "held", "data": str(gate)}})
    seen = eventually(lambda: one(peer, "long"), lambda seen: seen["skipped"] >= 2)
    eventually(lambda: sum(job_id.startswith("long:") for job_id in first_runs(folder / "ran")), lambda count: count == 1)
    gate.touch()
    until_ticked(peer, "long", seen["last"]["id"])
    peer.call("unschedule", "long")


def test_schedule_of_the_config_is_its_own(peer: Peer) -> None:
    found = one(peer, "beat")
    assert (found["origin"], found["job"]) == ("config", {"type": "tick", "data": {"from": "config"}, "prio": "low"})
    assert found["next"][0] % 3600 == 0
    for name, argument in (
        ("schedule", {"name": "beat", "every": 5, "job": JOB}),
        ("unschedule", {"name": "beat", "force": True}),
    ):
        with pytest.raises(RefusedError, match=r"bad_call: the schedule 'beat' stands in the config"):
            peer.call(name, argument)
    assert peer.call("suspend", {"schedule": "beat"})["changed"] is True
    assert peer.call("resume", {"schedule": "beat"})["changed"] is True


REFUSED = [
    ({"name": "x y", "every": 5}, "bad_call", 'name: expected 1 to 100 of A-Z a-z 0-9 . _ -, got "x y"'),
    ({"name": "a" * 101, "every": 5}, "bad_call", "name"),
    ({"name": "x:y", "every": 5}, "bad_call", "name"),
    ({"name": "x"}, "bad_call", "cron, every: expected one of them, got none"),
    ({"name": "x", "every": 5, "cron": "@daily"}, "bad_call", "expected one of them, got both"),
    ({"name": "x", "every": 0.09}, "bad_call", "every: expected a number of seconds from 0.1 to 315360000, got 0.09"),
    ({"name": "x", "every": -1}, "bad_call", "every"),
    ({"name": "x", "every": 1e300}, "bad_call", "every"),
    ({"name": "x", "every": "5"}, "bad_call", "every"),
    ({"name": "x", "every": True}, "bad_call", "every"),
    ({"name": "x", "every": 5, "tz": "Europe/Berlin"}, "bad_call", "tz: expected cron beside it"),
    ({"name": "x", "cron": "@daily", "from": 5}, "bad_call", "from: expected every beside it"),
    (
        {"name": "x", "every": 5, "from": "tomorrow"},
        "bad_call",
        'with its zone, or Unix seconds, got "tomorrow"',
    ),
    ({"name": "x", "every": 5, "from": -1}, "bad_call", "from"),
    (
        {"name": "x", "cron": "61 * * * *"},
        "bad_call",
        "cron: expected a minute that there is",
    ),
    ({"name": "x", "cron": "0 25 * * *"}, "bad_call", "cron: expected an hour that there is"),
    ({"name": "x", "cron": "* * * * * *"}, "bad_call", "cron: expected five fields"),
    ({"name": "x", "cron": "0 0 30 2 *"}, "bad_call", "cron: expected a day of month that there is"),
    ({"name": "x", "cron": "0 0 32 * *"}, "bad_call", "cron: expected a day of month that there is"),
    ({"name": "x", "cron": "1" * 201}, "bad_call", "cron"),
    ({"name": "x", "cron": "@daily", "tz": "Mars/Olympus"}, "bad_call", 'as Europe/Berlin, got "Mars/Olympus"'),
    ({"name": "x", "every": 5, "catch_up": "two"}, "bad_call", "catch_up"),
    ({"name": "x", "every": 5, "overlap": "no"}, "bad_call", "overlap"),
    ({"name": "x", "evry": 5}, "bad_call", 'unknown field "evry"; the nearest known one is "every"'),
    (
        {"name": "x", "every": 5, "job": {"type": "a", "pri": 1}},
        "bad_job",
        'unknown field "pri"; the nearest known one is "prio"',
    ),
    ({"name": "x", "every": 5, "job": {"data": 1}}, "bad_job", "type: missing"),
    ({"name": "x", "every": 5, "job": {"type": "a", "id": "mine"}}, "bad_job", "id: a schedule's job has none"),
    ({"name": "x", "every": 5, "job": {"type": "a", "at": 5}}, "bad_job", "at: a schedule's job has none"),
    ({"name": "x", "every": 5, "job": {"type": "a", "wait": 5}}, "bad_job", "wait: a schedule's job has none"),
    ({"name": "x", "every": 5, "job": {"type": "a", "tick": 5.0}}, "bad_job", 'unknown field "tick"'),
    ({"name": "x", "every": 5, "job": [{"type": "a"}]}, "bad_job", "job: expected one job, not an array"),
    ({"name": "x", "every": 5, "job": "a"}, "bad_job", "expected a job object"),
    ({"name": "x", "every": 5, "job": None}, "bad_job", "expected a job object"),
    ({"name": "x", "every": 5, "job": {"type": "a", "data": "x" * 17000}}, "too_large", "job: expected at most 16384 bytes"),
]


@pytest.mark.parametrize(("argument", "code", "message"), REFUSED)
def test_what_cannot_be_is_refused(peer: Peer, argument: dict[str, object], code: str, message: str) -> None:
    with pytest.raises(RefusedError, match=re.escape(message)) as refused:
        peer.call("schedule", {"job": JOB} | argument)
    assert refused.value.code == code
    assert [found["name"] for found in peer.call("schedules")] == ["beat"]


def test_names_that_nobody_has_are_not_found(peer: Peer) -> None:
    for name, argument in (
        *[(name, {"name": "none"}) for name in ("unschedule", "fire", "schedules")],
        *[(name, {"schedule": "none"}) for name in ("suspend", "resume")],
    ):
        with pytest.raises(RefusedError, match="no schedule has the name 'none'") as refused:
            peer.call(name, argument)
        assert refused.value.code == "not_found"
    for plan in ([1], None, "x", {"name": "x", "every": 5}):
        with pytest.raises(RefusedError):
            peer.call("schedule", plan)
    for subject in ({"schedule": "beat", "type": "tick"}, {}, {"schedule": ""}):
        with pytest.raises(RefusedError):
            peer.call("suspend", subject)


def test_client_cannot_pass_off_a_job_as_a_tick(peer: Peer) -> None:
    for job in ({"type": "tick", "tick": 5.0}, {"type": "tick", "id": "beat:x", "tick": None}):
        for argument in (job, [job]):
            with pytest.raises(RefusedError, match='unknown field "tick"'):
                peer.call("insert", argument)


def test_all_of_it_from_the_command_line(kqs: Kqs, peer: Peer) -> None:
    code, out, _ = kqs(
        "schedule", "report", "tick", "{a:1}", "--cron", "0 6 * * 1-5", "--tz", "Europe/Berlin", "--prio", "high"
    )
    assert code == 0
    assert "0 6 * * 1-5" in out
    assert one(peer, "report")["job"] == {"prio": "high", "type": "tick", "data": {"a": 1}}
    listed = kqs("schedules")[1]
    assert re.search(r"beat +every 3600 s +tick +2", listed)
    assert "0 6 * * 1-5 Europe/Berlin" in listed
    assert json.loads(kqs("schedules", "report", "--json")[1])["name"] == "report"
    assert len(kqs("schedules", "report", "--next", "3")[1].splitlines()) == 3
    assert "created_at" in kqs("schedules", "report")[1]
    assert kqs("suspend", "--schedule", "report")[1] == "report suspended\n"
    assert "suspended" in kqs("schedules")[1]
    assert kqs("resume", "--schedule", "report")[1] == "report resumed\n"
    job_id = kqs("fire", "report")[1].strip()
    assert peer.call("job", {"id": job_id, "wait": 10})["data"] == {"a": 1}
    assert json.loads(kqs("fire", "report", "--json")[1])["id"]
    assert kqs("unschedule", "report")[1] == "report unscheduled\n"
    assert kqs("schedule", "each", "tick", "--every", "600", "--from", "1767225600", "--auto-touch", "--json")[0] == 0
    assert one(peer, "each")["next"][0] % 600 == 0
    assert kqs("unschedule", "each", "--force", "--json") == (0, '{"name":"each"}\n', "")


def test_numbers_of_a_job_stand_as_they_were_typed(kqs: Kqs) -> None:
    data = "[1e400,1E5,12345678901234567890123]"
    assert data in kqs("schedule", "huge", "tick", data, "--every", "600")[1]
    assert data in kqs("schedules", "huge")[1]
    assert data in kqs("schedules", "--json")[1]
    assert re.search(r"huge +every 600 s +tick +2", kqs("schedules")[1])
    assert len(kqs("schedules", "huge", "--next", "3")[1].splitlines()) == 3
    assert kqs("unschedule", "huge")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["unschedule", "none"], 1),
        (["unschedule", "beat"], 1),
        (["schedule", "x", "tick"], 1),
        (["schedule", "x", "tick", "--every", "soon"], 2),
        (["schedules", "--next", "3"], 2),
        (["suspend"], 2),
        (["suspend", "tick", "--schedule", "beat"], 2),
    ],
)
def test_what_is_wrong_is_one_line_and_an_exit_code(kqs: Kqs, arguments: list[str], code: int) -> None:
    found, out, err = kqs(*arguments)
    assert (found, out, err.count("\n")) == (code, "", 1)


def test_schedules_and_ticks_are_counted_in_stats(served: Served, peer: Peer) -> None:
    before = peer.call("stats")
    peer.call("schedule", {"name": "count", "every": 0.1, "job": JOB})
    until_ticked(peer, "count")
    after = peer.call("stats")
    assert after["schedules"] == before["schedules"] + 1
    assert after["ticks_inserted"] > before["ticks_inserted"]
    peer.call("unschedule", "count")
    assert peer.call("health")["ok"] is True


def test_schedules_outlive_the_server_and_those_of_the_config_follow_it(tmp_path: Path) -> None:
    with serving_in(tmp_path) as server:
        ask(server, "schedule", {"name": "mine", "every": 1, "catch_up": "skip", "job": JOB})
        ask(server, "schedule", {"name": "taken", "every": 3600, "job": JOB})
        ask(server, "suspend", {"schedule": "taken"})
        (before,) = ask(server, "schedules", {"name": "beat"})
        server.stop()
    changed = CONFIG.replace("beat", "taken") + '[schedules.other]\ncron = "@daily"\ntype = "tick"\n'
    with serving_in(tmp_path, changed) as server:
        names = [found["name"] for found in eventually(lambda: ask(server, "schedules"), lambda found: len(found) == 3)]
        assert names == ["mine", "other", "taken"]
        (taken,) = ask(server, "schedules", {"name": "taken"})
        assert (taken["origin"], taken["job"], bool(taken["suspended_at"])) == ("config", before["job"], True)
        server.stop()
    with serving_in(tmp_path, "") as server:
        assert [found["name"] for found in eventually(lambda: ask(server, "schedules"), bool)] == ["mine"]


def test_server_does_not_start_with_a_schedule_that_cannot_be(tmp_path: Path) -> None:
    message = re.escape("[schedules.x] cron: expected a minute that there is")
    with (
        pytest.raises(AssertionError, match=message),
        serving_in(tmp_path, '[schedules.x]\ncron = "61 * * * *"\ntype = "a"'),
    ):
        pass


def test_tick_waits_while_too_many_of_its_type_wait_and_others_tick(tmp_path: Path) -> None:
    when = 'every = 0.2\nfrom = "2026-01-01T00:00:00Z"\n'
    config = f"""
    [types.full]
    max_waiting = 1
    [types.letter]
    fan_out = ["full"]
    [schedules.held]
    {when} type = "full"
    [schedules.copied]
    {when} type = "letter"
    [schedules.free]
    {when} type = "tick"
    """
    with serving_in(tmp_path, config) as served, peer_of(served) as peer:

        def problems() -> list[str]:
            return list(peer.call("health")["problems"])

        def counts() -> dict[str, int]:
            (found,) = peer.call("types", {"type": "full"})
            return dict(found["counts"])

        eventually(problems, lambda seen: any("schedule" in one and "max_waiting = 1" in one for one in seen))
        assert counts() == {"new": 1}
        seen = until_ticked(peer, "free")
        until_ticked(peer, "free", seen["last"]["id"])
        before = peer.call("jobs", {"type": "full"})
        assert peer.call("cancel", {"type": "full"})["count"] == 1
        eventually(counts, lambda seen: seen == {"new": 1, "cancelled": len(before)})
