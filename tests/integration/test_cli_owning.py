"""What an owner does with jobs from the command line, against a real server."""

import json
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.support.serving import Kqs, Served, serving
from tests.support.terminal import OnTerminal

KQS = (sys.executable, "-m", "kqs")
#: what a terminal is told last by a command that had its whole screen
LEFT = b"\x1b[?25h\x1b[?1049l"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("owning")) as served:
        yield served


def insert(kqs: Kqs, type_: str, count: int, **fields: str) -> list[str]:
    options = [word for name, value in fields.items() for word in (f"--{name}", value)]
    return [kqs("insert", type_, f'{{"n":{n}}}', *options)[1].strip() for n in range(count)]


def on_a_terminal(served: Served, *arguments: str, typed: str = "") -> tuple[int, str]:
    """Run a command whose input and output are a terminal of 80 columns; return its exit code and what it showed."""
    command = OnTerminal(f"127.0.0.1:{served.port}", *arguments, kind="dumb")
    command.type(typed)
    return command.read_to_the_end(), command.shown.decode()


def test_jobs_are_cancelled_retried_and_deleted_by_a_filter(kqs: Kqs) -> None:
    ids = insert(kqs, "bulk", 3)
    assert kqs("cancel", "--type", "bulk", "--dry-run") == (0, "3 would be cancelled\n", "")
    assert kqs("cancel", "--type", "bulk", "--match", '"n":[01]}') == (0, "2 cancelled\n", "")
    assert kqs("retry", "--type", "bulk", "--state", "cancelled", "--dry-run")[1] == "2 would wait again\n"
    assert kqs("retry", "--type", "bulk") == (0, "2 wait again\n", "")
    assert json.loads(kqs("delete", *ids[:2], "--json")[1]) == {"count": 2, "ids": sorted(ids[:2]), "skipped": 0}
    assert kqs("delete", ids[0]) == (0, "0 deleted\n", "")
    assert kqs("purge", "bulk", "--dry-run") == (0, "1 would be deleted\n", "")
    assert kqs("purge", "bulk", "--dry-run", "--json") == (0, "1\n", "")
    assert kqs("purge", "bulk") == (0, "1 deleted\n", "")
    assert kqs("purge", "bulk", "--json") == (0, "0\n", "")


def test_a_running_job_is_passed_over_unless_forced(kqs: Kqs) -> None:
    (job_id,) = insert(kqs, "held", 1)
    assert kqs("call", "reserve", '{types:["held"],wait:20,worker:"w",hold:true}')[0] == 0
    code, _, err = kqs("delete", job_id)
    assert (code, err.startswith("kqs: running: ")) == (1, True)
    assert kqs("delete", "--type", "held")[1] == "0 deleted; 1 that run passed over (--force deletes them too)\n"
    assert kqs("delete", "--type", "held", "--force")[1] == "1 deleted\n"


@pytest.mark.parametrize("verb", ["cancel", "retry", "delete"])
@pytest.mark.parametrize("choice", [[], ["--all", "--type", "x"], ["--all", "an-id"]])
def test_what_is_meant_must_be_said(kqs: Kqs, verb: str, choice: list[str]) -> None:
    code, out, err = kqs(verb, *choice)
    assert (code, out) == (2, "")
    assert err.startswith(f"kqs {verb}: ")


def test_a_pattern_that_is_none_is_refused(kqs: Kqs) -> None:
    code, _, err = kqs("cancel", "--match", "(bob")
    assert code == 1
    assert err.startswith("kqs: bad_call: match: ")


def test_jobs_are_listed_by_a_filter_the_newest_first(kqs: Kqs) -> None:
    ids = insert(kqs, "listed", 3)
    lines = kqs("jobs", "--type", "listed", "--newest", "--limit", "2", "--json")[1].splitlines()
    assert [json.loads(line)["id"] for line in lines] == [ids[2], ids[1]]
    lines = kqs("jobs", "--type", "listed", "--state", "new", "--state", "fail", "--match", '"n":1', "--json")[1].splitlines()
    assert [json.loads(line)["id"] for line in lines] == [ids[1]]


def test_a_type_is_suspended_and_resumed(kqs: Kqs) -> None:
    assert kqs("suspend", "paused") == (0, "paused suspended\n", "")
    assert "suspended" in kqs("types", "--type", "paused")[1]
    assert json.loads(kqs("resume", "paused", "--json")[1]) == {"type": "paused", "suspended": False, "changed": True}


def test_a_type_is_limited(kqs: Kqs) -> None:
    told = "bounded: 2 a server, 5 in all, 100 in 60 s; 0 run here; set by call\n"
    named = ("--concurrency", "2", "--max-running", "5", "--rate", "100", "--per-s", "60")
    assert kqs("limit", "bounded", *named) == (0, told, "")
    assert kqs("limit", "bounded") == (0, told, "")
    assert json.loads(kqs("limit", "bounded", "--lift", "rate", "--lift", "concurrency", "--json")[1])["limits"] == {
        "max_running": 5,
        "running": 0,
        "by_call": True,
    }
    assert json.loads(kqs("types", "--type", "bounded", "--json")[1])["limits"]["max_running"] == 5
    assert kqs("limit", "bounded", "--reset") == (0, "bounded: no limits\n", "")
    assert kqs("limit", "unheard-of") == (0, "unheard-of: no limits\n", "")
    assert json.loads(kqs("limit", "unheard-of", "--json")[1]) == {"type": "unheard-of", "limits": {}}


def test_a_type_has_subscribers(kqs: Kqs) -> None:
    answers = [kqs(verb, "letter", "stamp") for verb in ("subscribe", "subscribe", "unsubscribe")]
    assert answers == [(0, f"stamp {word}\n", "") for word in ("subscribed", "subscribed already", "unsubscribed")]
    code, out, _ = kqs("unsubscribe", "letter", "stamp", "--json")
    assert (code, json.loads(out)) == (0, {"type": "letter", "subscriber": "stamp", "subscribed": False, "changed": False})


def test_a_job_is_explained(kqs: Kqs) -> None:
    (job_id,) = insert(kqs, "later", 1, delay="3600")
    code, out, _ = kqs("explain", job_id)
    assert code == 0
    assert out.startswith("It is due at ")
    assert "not_due" in out
    assert json.loads(kqs("explain", job_id, "--json")[1])["id"] == job_id
    assert kqs("explain", "nobody")[0] == 1


def test_types_and_workers_are_tables_or_json(kqs: Kqs) -> None:
    insert(kqs, "seen", 2)
    assert "seen" in kqs("types")[1]
    (one,) = [json.loads(line) for line in kqs("types", "--json", "--type", "seen")[1].splitlines()]
    assert one["counts"] == {"new": 2}
    assert "server" in kqs("workers")[1]
    assert "server" in [json.loads(line)["kind"] for line in kqs("workers", "--json")[1].splitlines()]


@pytest.mark.parametrize("command", [["jobs"], ["types"], ["workers"], ["jobs", "--newest"]])
def test_tables_fit_eighty_columns(served: Served, kqs: Kqs, command: list[str]) -> None:
    insert(kqs, "a-type-with-a-long-name", 1, delay="60")
    code, shown = on_a_terminal(served, *command)
    assert code == 0
    assert max(len(line) for line in shown.splitlines()) <= 80


@pytest.mark.parametrize(("typed", "code", "left"), [("y\n", 0, 0), ("n\n", 130, 2)])
def test_a_bulk_verb_asks_on_a_terminal(served: Served, kqs: Kqs, typed: str, code: int, left: int) -> None:
    insert(kqs, f"asked-{code}", 2)
    ended, shown = on_a_terminal(served, "purge", f"asked-{code}", typed=typed)
    assert ended == code
    assert "delete 2 jobs? [y/N]" in shown
    assert len(kqs("jobs", "--type", f"asked-{code}", "--json")[1].splitlines()) == left


def test_yes_goes_ahead_on_a_terminal(served: Served, kqs: Kqs) -> None:
    insert(kqs, "sure", 1)
    ended, shown = on_a_terminal(served, "cancel", "--type", "sure", "--yes")
    assert ended == 0
    assert "1 cancelled" in shown
    assert "?" not in shown


def test_top_shows_types_and_workers_where_nobody_watches(kqs: Kqs) -> None:
    insert(kqs, "top-of-all", 2)
    code, shown, _ = kqs("top", "--interval", "0.2")
    assert code == 0
    assert ["top-of-all", "2"] in [line.split()[:2] for line in shown.splitlines()]
    assert "echo, ping" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_top_is_watched_until_it_is_interrupted(served: Served, number: signal.Signals) -> None:
    command = OnTerminal(f"127.0.0.1:{served.port}", "top", "--interval", "0.2")
    command.read_until(lambda shown: shown.count(b"echo, ping") >= 2)
    command.process.send_signal(number)
    assert command.read_to_the_end() == 0
    assert command.shown.endswith(LEFT)


def test_what_is_refused_is_told_on_a_terminal_too(served: Served) -> None:
    ended, shown = on_a_terminal(served, "retry", "--match", "(", "--yes")
    assert ended == 1
    assert "kqs: bad_call: match" in shown


def test_options_are_set_at_run_time(kqs: Kqs) -> None:
    code, shown, _ = kqs("configure", "tuned", "--ttr", "77", "--auto-touch", "--retries", "3")
    assert code == 0
    assert {"ttr *", "auto_touch *", "retries *"} <= {line.rpartition("  ")[0].strip() for line in shown.splitlines()}
    (job_id,) = insert(kqs, "tuned", 1)
    assert json.loads(kqs("job", job_id, "--json")[1])["options"]["ttr"] == 77
    left = json.loads(kqs("configure", "tuned", "--take-back", "ttr", "--json")[1])
    assert (left["by_call"], left["options"]["ttr"]) == ({"auto_touch": True, "retries": 3}, 30)
    assert kqs("configure", "tuned", "--ttr", "5", "--take-back", "ttr")[0] == 2
    assert kqs("configure", "tuned", "--ttr", "0")[0] == 1
    assert json.loads(kqs("configure", "tuned", "--reset", "--json")[1])["by_call"] == {}
    assert json.loads(kqs("configure", "--keep", "99", "--json")[1])["options"]["keep"] == 99
    assert json.loads(kqs("configure", "tuned", "--json")[1])["options"]["keep"] == 99
    assert json.loads(kqs("configure", "--reset", "--json")[1])["options"]["keep"] is None
