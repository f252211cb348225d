"""The command line against a real server."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from kqs.cli import run
from tests.support.serving import ROOT, Served, serving

KQS = (sys.executable, "-m", "kqs")


class Kqs(Protocol):
    """Runs a command in this process; returns (exit code, stdout, stderr)."""

    def __call__(self, *arguments: str) -> tuple[int, str, str]: ...


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("cli"), SERVER__SOCKET="cli.sock") as served:
        yield served


@pytest.fixture
def kqs(served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Kqs:
    monkeypatch.setenv("KQS_SERVER", f"127.0.0.1:{served.port}")

    def kqs(*arguments: str) -> tuple[int, str, str]:
        return run(arguments), *capsys.readouterr()

    return kqs


def popen(*arguments: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*KQS, *arguments],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_call_prints_its_result(kqs: Kqs) -> None:
    assert kqs("call", "ping") == (0, '"pong"\n', "")
    assert kqs("call", "echo", "{a:1}", "--json") == (0, '{"a":1}\n', "")


def test_refused_call_says_why(kqs: Kqs) -> None:
    code, out, err = kqs("call", "pnig")
    assert (code, out) == (1, "")
    assert err.startswith("kqs: unknown_call: ")


def test_inserted_job_can_be_seen(kqs: Kqs) -> None:
    code, out, _ = kqs("insert", "untaken", "{a:[1,2]}", "--prio", "high", "--id", "seen", "--ttr", "5", "--retries", "3")
    assert (code, out) == (0, "seen\n")
    job = json.loads(kqs("job", "seen", "--json")[1])
    assert (job["type"], job["state"], job["data"]) == ("untaken", "new", {"a": [1, 2]})
    assert (job["options"]["prio"], job["options"]["ttr"], job["options"]["retries"]) == (9000, 5, 3)
    assert "untaken" in kqs("job", "seen")[1]


def test_runs_of_a_job_are_shown(kqs: Kqs) -> None:
    kqs("insert", "echo", '"x"', "--id", "ran")
    while json.loads(kqs("job", "ran", "--json")[1])["state"] != "success":
        pass
    out = kqs("job", "ran")[1]
    assert [line.split() for line in out.splitlines() if line.startswith("attempt")] == [
        ["attempt", "1"],
        ["attempt", "worker", "started_at", "ended_at", "state", "error"],
    ]


def test_data_that_no_number_of_ours_holds_is_shown_as_it_stands(kqs: Kqs) -> None:
    kqs("insert", "huge", '{"a":[1e400,1.0]}', "--id", "huge")
    code, out, _ = kqs("job", "huge")
    assert code == 0
    assert '{"a":[1e400,1.0]}' in out.split()
    code, out, _ = kqs("jobs", "--type", "huge")
    assert code == 0
    assert "huge" in out


def test_insert_makes_an_id(kqs: Kqs) -> None:
    job_id = json.loads(kqs("insert", "untaken", "--json")[1])["id"]
    assert json.loads(kqs("job", job_id, "--json")[1])["data"] is None


def test_second_waiting_job_of_a_key_is_joined_or_refused(kqs: Kqs) -> None:
    code, first, _ = kqs("insert", "untaken", "--unique", "k")
    assert code == 0
    assert kqs("insert", "untaken", "--unique", "k") == (0, first, "")
    told = {"id": first.strip(), "created": False}
    assert json.loads(kqs("insert", "untaken", "--unique", "k", "--json")[1]) == told
    code, out, err = kqs("insert", "untaken", "--unique", "k", "--refuse")
    assert (code, out) == (1, "")
    assert err.startswith("kqs: duplicate: unique: a job of this type and key 'k' waits already")
    assert kqs("insert", "untaken", "--refuse")[0] == 2
    assert json.loads(kqs("job", first.strip(), "--json")[1])["unique"] == "k"


def test_json_of_an_insert_says_whether_a_given_id_is_new(kqs: Kqs) -> None:
    assert json.loads(kqs("insert", "untaken", "--id", "told", "--json")[1]) == {"id": "told", "created": True}
    assert json.loads(kqs("insert", "untaken", "--id", "told", "--json")[1]) == {"id": "told", "created": False}


def test_lines_of_a_file_that_ask_for_it_are_told_in_full(kqs: Kqs, tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text(
        '{"id":"one","unique":"file","answer":"full"}\n{"id":"two","unique":"file","answer":"full"}\n{"id":"three"}\n'
    )
    code, out, _ = kqs("insert", "untaken", "--file", str(path), "--json")
    assert code == 0
    assert sorted(map(json.loads, out.splitlines()), key=lambda one: one["line"]) == [
        {"line": 1, "id": "one", "created": True},
        {"line": 2, "id": "one", "created": False},
        {"line": 3, "id": "three"},
    ]


@pytest.mark.parametrize(
    ("option", "value"), [("--prio", "500"), ("--at", "2031-01-01T00:00:00Z"), ("--at", "1767225600"), ("--delay", "0.5")]
)
def test_insert_takes_numbers_and_names(kqs: Kqs, option: str, value: str) -> None:
    assert kqs("insert", "untaken", option, value)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "touched"),
    [
        (("--auto-touch", "untaken"), True),
        (("untaken", "1", "--auto-touch"), True),
        (("--auto-touch", "--ttr", "5", "untaken"), True),
        (("--auto-touch", "False", "untaken"), False),
        (("--auto-touch=true", "untaken"), True),
        (("untaken",), False),
    ],
)
def test_auto_touch_needs_no_value(kqs: Kqs, arguments: tuple[str, ...], touched: bool) -> None:
    job_id = kqs("insert", *arguments)[1].strip()
    assert json.loads(kqs("job", job_id, "--json")[1])["options"]["auto_touch"] is touched


def test_refused_insert_names_the_field(kqs: Kqs) -> None:
    code, _, err = kqs("insert", "untaken", "--ttr", "0.01")
    assert code == 1
    assert "bad_job" in err
    assert "ttr" in err


def test_insert_wants_a_type(kqs: Kqs) -> None:
    assert kqs("insert")[0] == 2


def test_makerpc_speaks_to_the_server(kqs: Kqs, served: Served) -> None:
    _, line, _ = kqs("makerpc", "echo", "{a:1}", "--id", "7")
    assert json.loads(served.ask(line.rstrip("\n"))[0]) == {"v": 1, "id": 7, "e": None, "s": "end", "m": {"a": 1}}


def test_file_is_inserted_once_however_often(kqs: Kqs, tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text("".join(f'{{"data":{number}}}\n' for number in range(2500)))
    for _ in range(2):
        assert kqs("insert", "filed", "--file", str(file)) == (0, "2,500 inserted\n", "")
    code, out, _ = kqs("jobs", "--type", "filed", "--limit", "9999", "--json")
    assert (code, [json.loads(line)["data"] for line in out.splitlines()]) == (0, list(range(2500)))


def test_file_under_another_run_is_new(kqs: Kqs, tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text('{"type":"rerun"}\n')
    for name in ("", "monday", "monday"):
        kqs("insert", "--file", str(file), "--run", name)
    assert len(kqs("jobs", "--type", "rerun", "--json")[1].splitlines()) == 2


def test_stdin_is_a_file_as_well(kqs: Kqs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"type":"piped","id":"p1"}\n')))
    code, out, err = kqs("insert", "--file", "-", "--json")
    assert (code, json.loads(out), err) == (0, {"line": 1, "id": "p1"}, "1 inserted\n")


def test_refused_line_is_told_and_the_rest_inserted(kqs: Kqs, tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text('{"type":"part"}\n{"tpye":"part"}\n{"type":"part"}\n')
    code, out, err = kqs("insert", "--file", str(file))
    assert (code, out) == (1, "2 inserted, 1 refused\n")
    assert "line 2" in err
    assert "tpye" in err


@pytest.mark.parametrize("found_by", ["client", "server"])
def test_unreadable_lines_are_refused_and_no_others(
    kqs: Kqs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found_by: str
) -> None:
    if found_by == "server":
        monkeypatch.setattr("kqs.client.inflight.check_text", lambda _line: None)
    lines = [b'{"type":"hundred"}\n'] * 100
    lines[49] = b'{"type":"hundred","data":"\xff"}\n'
    lines[59] = b'{"type":"hundred","data":' + b"[" * 70 + b"]" * 70 + b"}\n"
    file = tmp_path / "jobs.jsonl"
    file.write_bytes(b"".join(lines))
    code, out, err = kqs("insert", "--file", str(file), "--run", found_by)
    assert (code, out) == (1, "98 inserted, 2 refused\n")
    assert [line.split(":")[1] for line in err.splitlines()] == [" line 50", " line 60"]


def test_progress_is_shown_when_asked(kqs: Kqs, tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text('{"type":"bar"}\n')
    assert "inserting" in kqs("insert", "--file", str(file), "--progress")[2]


def test_missing_file_is_told(kqs: Kqs) -> None:
    assert kqs("insert", "--file", "none.jsonl") == (74, "", "kqs: none.jsonl: no such file or directory\n")


def test_a_job_is_one_row_however_its_run_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "many.py").write_text("import kqs\n\n\n@kqs.handler('fails')\ndef fails(data):\n    raise kqs.Fail(data)\n")
    reason = "two faults\nname\x1b[2J: missing\n" + "x" * 3000
    with serving(tmp_path, WORKER__MODULES='["many"]') as served:
        monkeypatch.setenv("KQS_SERVER", f"127.0.0.1:{served.port}")
        run(["insert", "fails", json.dumps(reason), "--id", "failed"])
        capsys.readouterr()
        while not capsys.readouterr().out:
            run(["jobs", "--state", "fail", "--json"])
        run(["jobs"])
        _, _, row = capsys.readouterr().out.splitlines()
        assert row.endswith("two faults…")
        assert row.isprintable()
        run(["job", "failed"])
        out = capsys.readouterr().out
        assert re.search(r"^error +two faults\n +name\\x1b\[2J: missing\n +xxx", out, re.M)
        assert re.search(r'^options +{"prio": 10000, "delay": ', out, re.M)
        assert out.splitlines()[-1].endswith("two faults…")
        run(["explain", "failed"])
        assert re.search(r"^error +two faults\n +name\\x1b\[2J: missing\n +xxx", capsys.readouterr().out, re.M)
        assert "\x1b" not in out


def test_jobs_can_be_chosen(kqs: Kqs) -> None:
    ids = [kqs("insert", "chosen")[1].strip() for _ in range(3)]
    assert [
        json.loads(line)["id"] for line in kqs("jobs", "--type", "chosen", "--after", ids[0], "--json")[1].splitlines()
    ] == ids[1:]
    assert kqs("jobs", "--type", "chosen", "--state", "fail", "--json")[1] == ""
    table = kqs("jobs", "--type", "chosen", "--limit", "2")[1]
    assert (ids[1] in table, ids[2] in table) == (True, False)


def test_the_id_of_a_process_can_be_pasted_as_it_stands(kqs: Kqs, served: Served) -> None:
    shown = dict(re.findall(r"^(\S+) +(\S+)$", kqs("stats")[1], re.M))
    assert (shown["pid"], shown["process"]) == (str(served.process.pid), str(served.process.pid))


def test_options_of_a_type_can_be_given_as_they_are_shown(kqs: Kqs) -> None:
    shown = dict(re.findall(r"^(\S+) +(\S+)$", kqs("configure", "shown", "--ghosts", "12345")[1], re.M))
    assert kqs("configure", "shown", "--prio", shown["prio"], "--max-retry-delay", shown["max_retry_delay"])[0] == 0


def test_stats_and_health_are_tables_or_json(kqs: Kqs) -> None:
    assert json.loads(kqs("stats", "--json")[1])["connections"] >= 1
    assert "jobs_new" in kqs("stats")[1]
    code, out, _ = kqs("health")
    assert (code, "ok" in out) == (0, True)
    assert json.loads(kqs("health", "--json")[1])["verdict"] == "ok"


def test_unknown_job_is_refused(kqs: Kqs) -> None:
    assert kqs("job", "nobody")[0] == 1


def test_unix_socket_is_an_address(kqs: Kqs, served: Served) -> None:
    assert kqs("call", "ping", "--server", f"unix:{served.log.parent / 'cli.sock'}")[:2] == (0, '"pong"\n')


def test_no_server_is_unavailable(kqs: Kqs, tmp_path: Path) -> None:
    code, _, err = kqs("stats", "--server", f"unix:{tmp_path / 'none'}")
    assert code == 69
    assert "no such file" in err


def test_answer_that_does_not_come_is_temporary(kqs: Kqs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert kqs("call", "ping", "--timeout", "0.01", "--server", address)[0] == 75


def test_interrupt_is_clean() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        command = popen("call", "ping", "--server", f"127.0.0.1:{silent.getsockname()[1]}")
        connection, _ = silent.accept()
        with connection:
            connection.recv(1000)
            command.send_signal(signal.SIGINT)
            assert command.communicate(timeout=30) == ("", "")
    assert command.returncode == 130


def test_interrupted_file_says_how_to_go_on(tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text('{"type":"a"}\n')
    with socket.create_server(("127.0.0.1", 0)) as silent:
        command = popen("insert", "--file", str(file), "--server", f"127.0.0.1:{silent.getsockname()[1]}")
        connection, _ = silent.accept()
        with connection:
            connection.recv(1000)
            command.send_signal(signal.SIGINT)
            out, err = command.communicate(timeout=30)
    assert (command.returncode, out) == (130, "0 inserted\n")
    assert "repeat the command" in err
    assert "Traceback" not in err


def test_reader_that_goes_away_is_no_trouble(kqs: Kqs, served: Served, tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text('{"type":"long"}\n' * 1000)
    kqs("insert", "--file", str(file))
    command = popen("jobs", "--json", "--server", f"127.0.0.1:{served.port}", "--limit", "1000")
    assert command.stdout is not None
    assert command.stderr is not None
    assert command.stdout.readline()
    command.stdout.close()
    assert command.stderr.read() == ""
    command.stderr.close()
    assert command.wait(30) == 141


def test_wrong_configuration_stops_the_start(kqs: Kqs, tmp_path: Path) -> None:
    (tmp_path / "kqs.toml").write_text("[server]\nprot = 1\n")
    code, _, err = kqs("serve", "--config", str(tmp_path / "kqs.toml"))
    assert (code, err) == (
        78,
        f'kqs: {tmp_path}/kqs.toml: server.prot: unknown setting "prot"; the nearest known one is "port"\n',
    )


def test_busy_port_stops_the_start(served: Served, tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "KQS_SERVER__HOST": "127.0.0.1", "KQS_SERVER__PORT": str(served.port)}
    done = subprocess.run([*KQS, "serve"], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 69
    assert str(served.port) in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_bench_measures_a_server_of_its_own(kqs: Kqs) -> None:
    code, out, _ = kqs("bench", "--count", "16", "--json")
    assert code == 0
    assert {json.loads(line)["name"].split(",")[0] for line in out.splitlines()} == {
        "echo", "insert", "run", "insert to run"
    }  # fmt: skip


def test_journal_of_a_server_can_be_verified_and_read(kqs: Kqs, served: Served) -> None:
    kqs("insert", "untaken", '"look for me"')
    folder = str(served.log.parent / "journal")
    assert json.loads(kqs("journal", "verify", folder, "--json")[1])["problems"] == []
    assert "look for me" in kqs("journal", "dump", folder)[1]


def test_journal_of_a_running_server_cannot_be_repaired(kqs: Kqs, served: Served) -> None:
    assert kqs("journal", "repair", str(served.log.parent / "journal"))[0] == 75
