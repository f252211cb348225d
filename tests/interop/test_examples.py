"""The programs in examples/, against a real server and against the script that plays one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kqs.cli import COMMANDS
from kqs.conformance.score import End
from tests.support.asking import ask, eventually
from tests.support.conformance import Trial, told_of
from tests.support.examples import EXAMPLES, LANGUAGES
from tests.support.serving import ROOT, Served, free_port, serving

WITHIN_S = 60
WHERE = ["{host}", "{port}"]
LINES = ['{"n":1,"text":"é \\"q\\" \\\\ $(n)"}', '"two"', "[3,null,true]"]


def test_each_example_is_short() -> None:
    longest = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.iterdir() if path.suffix != ".md"}
    assert {name: count for name, count in longest.items() if count >= 80} == {}


@pytest.mark.parametrize("language", LANGUAGES)
def test_jobs_of_the_producer_are_run_by_the_worker_also_after_the_server_was_killed(language: str, tmp_path: Path) -> None:
    example = LANGUAGES[language](tmp_path)
    port = free_port()
    where = ["127.0.0.1", str(port)]
    with subprocess.Popen([*example.worker, *where], stderr=subprocess.DEVNULL) as worker:
        try:
            for _ in range(2):
                with serving(tmp_path, SERVER__PORT=str(port), WORKER__CONCURRENCY="0") as server:
                    lines = "".join(f"{line}\n" for line in LINES)
                    done = subprocess.run(
                        [*example.producer, *where, "echo"], input=lines, capture_output=True, text=True, timeout=WITHIN_S
                    )
                    assert (done.returncode, len(done.stdout.split())) == (0, len(LINES)), done.stderr
                    results = [_result(server, job_id) for job_id in done.stdout.split()]
                    assert sorted(map(json.dumps, results)) == sorted(json.dumps(json.loads(line)) for line in LINES)
                    server.process.kill()
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(WITHIN_S) == 0
        finally:
            worker.kill()


def _result(server: Served, job_id: str) -> object:
    job = eventually(lambda: ask(server, "job", job_id), lambda job: job["state"] == "success", WITHIN_S)
    assert [run["state"] for run in job["runs"]] == ["success"]
    return job["result"]


@pytest.mark.slow
def test_they_keep_every_rule_and_so_do_our_own_client_and_worker(tmp_path: Path) -> None:
    trials = {"our client": Trial("producer", [sys.executable, "-m", "tests.support.client_producer", *WHERE, "echo"])}
    if "work" in COMMANDS:
        kqs_work = [sys.executable, "-m", "kqs", "work", "--connect", "{host}:{port}"]
        trials["our worker"] = Trial("worker", [*kqs_work, "tests.support.conformance_handlers"])
    missing = []
    for language, made in LANGUAGES.items():
        try:
            example = made(tmp_path)
        except pytest.skip.Exception as skipped:
            missing.append(str(skipped))
            continue
        trials[f"{language} worker"] = Trial("worker", [*example.worker, *WHERE])
        trials[f"{language} producer"] = Trial("producer", [*example.producer, *WHERE, "echo"])
    broken = {
        f"{name}: {line.rule.name}": line.detail
        for name, lines in told_of(trials, WITHIN_S).items()
        for line in lines
        if line.end is End.FAILED
    }
    assert broken == {}
    if missing:
        pytest.skip("; ".join(missing))


def test_the_readme_leads_to_them() -> None:
    assert "(examples/)" in (ROOT / "README.md").read_text()
