"""`kqs conformance` finds what is wrong with a program: each rule is broken by an example with one thing changed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kqs.cli import run
from kqs.conformance.score import End
from tests.support.asking import eventually
from tests.support.conformance import KINDS, Trial, told_of
from tests.support.examples import EXAMPLES
from tests.support.require import require
from tests.support.serving import ROOT, SERVE_ENVIRON

#: programs that do not do what they must are waited for so long
WITHIN_S = 4
WHERE = ("{host}", "{port}", "echo")


class Change(NamedTuple):
    """What is changed in an example, and what is told of it. without: what goes as well."""

    old: str
    new: str
    told: str
    kind: str = ".py"
    without: str = ""


WORKERS = {
    "asks": Change('"sleep", "fail"]', '"sleep"]', "expected types to hold echo, fail, sleep, got echo, sleep"),
    "reports": Change("else data\n", "else 7\n", "expected the data of an echo job as its result, got 7"),
    "fails": Change("str(error)", '"?"', "expected data.reason as the reason, got '?'"),
    "pieces": Change("lines.readline()", "lines.read1(65536)", "expected the run to be reported"),
    "long": Change("lines.readline()", "lines.readline(65536)", "expected the run to be reported"),
    "many": Change(".forEach(hear)", ".slice(0, 1).forEach(hear)", "expected the run to be reported", ".js"),
    "order": Change(
        "    calls.get(id)?.({ m, e }), calls.delete(id)",
        "    id = [...calls.keys()].find((one) => one !== workId) ?? id\n    calls.get(id)?.({ m, e }), calls.delete(id)",
        "a report that was refused as busy to be repeated",
        ".js",
    ),
    "unknown": Change("self, run):", "self, run):\n        assert len(run) == 8", "AssertionError"),
    "touches": Change('run["ttr"] / 3', "100", "expected touches of a run with a ttr of 1.5 s, none came"),
    "spares": Change(
        'code in ("stale", "bad_call") or (not code and state["cancel"])',
        'code or state["cancel"]',
        "expected the run to go on after a touch was refused as busy",
    ),
    "stale": Change(
        '(None, "stale", *UNFIT)',
        """(None, "stale", *UNFIT) and self.call("finish", {"run": run["run"], **end})""",
        "expected a stale report not to be repeated, it came 2 times",
    ),
    "over": Change(
        'code in ("stale", "bad_call") or (not code and state["cancel"])',
        "not self",
        "expected the next job to be done soon after a touch was stale",
    ),
    "cancel": Change(
        'code in ("stale", "bad_call") or (not code and state["cancel"])',
        "code",
        "expected the next job to be done soon after a run was cancelled",
    ),
    "empty": Change('"wait": 2', '"wait": 0', "expected a wait, so up to 12 calls"),
    "draining": Change("random.uniform(0.5, 1)", "0", "expected a longer wait after each refusal"),
    "back-off": Change("random.uniform(0.5, 1)", "0", "expected a longer wait before each try to connect"),
    "half-line": Change('.endswith(b"\\n")', "", "expected a line without an end to be no line, the run in it was reported"),
    "lost": Change(
        'code in ("stale", "bad_call") or', "", "expected it to come back and do the next job", without=', "hold": True'
    ),
    "hold": Change(
        "with suppress(OSError):  # it is held", "with suppress(ZeroDivisionError):  #", "expected touches of a held run"
    ),
    "elsewhere": Change(
        'code in ("stale", "bad_call")', 'code == "stale"', "expected the next job to be done", without=", *UNFIT"
    ),
    "repeats": Change(
        "self.pause() if not self.stopping or",
        "return self.pause() if self or not self.stopping or",
        "expected a report without an answer",
    ),
    "busy": Change(
        '(None, "stale", *UNFIT)', '(None, "stale", "busy")', "expected a report that was refused as busy to be repeated"
    ),
    "later": Change(
        '(None, "stale", *UNFIT)', '(None, "stale", "internal")', "a report that was refused as internal to be repeated"
    ),
    "unfit": Change("in UNFIT and", "in UNFIT[:2] and", 'a report of "fail" in the place of one that was refused as too_large'),
    "drains": Change("signal.signal(signal.SIGTERM", "signal.signal(signal.SIGUSR1", "1 of 1 were not"),
    "leaves": Change(
        'self.call("release", {"run": run["run"], "begun": False})', "None", "expected a run that came at the very end"
    ),
    "insists": Change(
        '(None, "stale", *UNFIT)',
        '(None, "stale", "busy")[: 2 + self.stopping]',
        "expected a report that was refused as busy to be repeated",
    ),
    "gone": Change("if not self.stopping or self.pause_s < 5 else", "if self else", "expected it to end within 20 s"),
}

#: rule: what else breaks it
MORE_WORKERS = {
    "reports: mixes up its runs": Change(
        "async (data) => data",
        "async (data) => (runs.last = data, await after(50), runs.last)",
        "expected the data of an echo job",
        ".js",
    ),
    "reports: connects for each call": Change(
        "self.lines = lines", "self.lines = None", "its connection was lost before", without=', "hold": True'
    ),
    "fails: for good": Change(
        'report="fail"', 'report="fail", final=True', 'a failure that may be tried again, it was "final"'
    ),
    "fails: says when it is tried again": Change('report="fail"', 'report="fail", delay=5', 'got a "delay" of 5'),
    "unknown: in an answer": Change("return answer.get", "assert len(answer) == 5; return answer.get", "AssertionError"),
    "touches: all the time": Change('run["ttr"] / 3', "0.001", "expected up to 12 touches of a run in 1.5 s"),
    "over: stops all": Change(
        "stop.abort())\n", "runs.forEach((one) => one.abort()))\n", "the other runs to be reported", ".js"
    ),
    "cancel: stops all": Change(
        "runs.get(m.cancel)?.abort()", "runs.forEach((one) => one.abort())", "the other runs to be reported", ".js"
    ),
    "over: works on": Change("e?.code === 'stale' || ", "", "no more touches of a run after a touch of it was stale", ".js"),
    "cancel: works on": Change("runs.get(m.cancel)?.abort()", "runs", "no more touches of a run after it was cancelled", ".js"),
    "lost: works on": Change(
        "runs.forEach((stop) => stop.abort()) //",
        "runs //",
        "no more touches of a run after its connection was lost",
        ".js",
        without="e?.code === 'stale' || ",
    ),
    "unfit: takes an error without an id for nothing": Change(
        "{ id = reporting,", "{ id,", "too long a line, and refused as too_large without an id", ".js"
    ),
    "unfit: drops it": Change(
        "e && e.code !== 'stale' && one.report", "false && one.report", 'a report of "fail" in the place of one', ".js"
    ),
    "touches: of several runs only the one in hand": Change(
        '"wait": 2', '"wait": 2, "count": 5', "a sign of life of each of 5 runs, also of those that wait, every 1.5 s, one was"
    ),
    "drains: releases what it has not begun as begun": Change(
        '"wait": 2', '"wait": 2, "count": 5', 'with "begun":false, 2 of 3 were not', without=', "begun": False'
    ),
    "leaves: releases what comes late for later": Change(
        '"begun": False', '"delay": 3600', 'with "begun":false, 1 of 1 were not'
    ),
}

CLIENTS = {
    "inserts": Change("json.loads(text)", "text", "expected the line as data"),
    "ids": Change("str(uuid.uuid4())", '"mine"', "expected an id of its own for each job"),
    "pieces": Change("self.lines.readline()", "self.lines.read1(65536)", "expected the line"),
    "waits": Change(', "wait": 0', "", "expected the line"),
    "many": Change(".forEach(hear)", ".slice(0, 1).forEach(hear)", "expected the lines", ".js"),
    "unknown": Change("json.loads(line)\n", "json.loads(line)\n        assert len(answer) == 5\n", "ended with status 1"),
    "busy": Change("random.uniform(0.5, 1)", "0", "expected a longer wait after each refusal"),
    "later": Change('"no_space", ', "", "expected the insert again after no_space"),
    "lost": Change('("insert", job)', '("insert", {**job, "id": str(uuid.uuid4())})', "expected the insert again under the id"),
    "half-line": Change('.endswith(b"\\n")', "", "expected the insert again after half an answer"),
    "back-off": Change("random.uniform(0.5, 1)", "0", "expected a longer wait before each try to connect"),
    "ends": Change("sys.exit(status)", "sys.exit(3)", "expected the program to end with status 0"),
    "too-large": Change(
        "['bad_json', 'too_large']", "[]", "expected the other inserts after one was refused as too_large", ".js"
    ),
    "refused": Change("LATER = {", 'LATER = {"bad_job", ', "expected the line 'refused: bad_job' on its output"),
}

MORE_CLIENTS = {
    "ids: the same when it is started anew": Change(
        "str(uuid.uuid4())",
        'vars(self).__setitem__("n", vars(self).get("n", 0) + 1) or str(self.n)',
        "expected no id that another job had when the program was started before, got 1",
    ),
    "later: takes a fault of the server for good": Change(', "internal"', "", "expected the insert again after internal"),
    "lost: repeats one": Change(
        "[...jobs.keys()].forEach(insert); ", "insert(first()); ", "each insert again that a lost connection left", ".js"
    ),
    "ends: before all is answered": Change("    ended = true\n", "    process.exit()\n", "after the end of the input", ".js"),
    "refused: repeats what is too large": Change(
        "LATER = {", 'LATER = {"too_large", ', "expected the line 'refused: too_large'"
    ),
}

CHANGES = {"worker": WORKERS, "producer": CLIENTS}
ALL_CHANGES = {"worker": WORKERS | MORE_WORKERS, "producer": CLIENTS | MORE_CLIENTS}


def changed(kind: str, folder: Path) -> Iterator[tuple[str, Trial]]:
    """Return for each change the trial of an example that breaks a rule by it, by that rule."""
    for number, (name, change) in enumerate(ALL_CHANGES[kind].items()):
        rule = name.partition(":")[0]
        source = (EXAMPLES / f"{kind}{change.kind}").read_text()
        assert change.old in source, rule
        program = folder / f"{number}{change.kind}"
        program.write_text(source.replace(change.old, change.new).replace(change.without or "\0", ""))
        interpreter = sys.executable if change.kind == ".py" else require("node")
        yield name, Trial(kind, [interpreter, str(program), *WHERE], rule)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHANGES)
def test_each_rule_finds_the_program_that_breaks_it(kind: str, tmp_path: Path) -> None:
    lines = {rule: line for rule, (line,) in told_of(dict(changed(kind, tmp_path)), WITHIN_S).items()}
    assert {rule: line.detail for rule, line in lines.items() if ALL_CHANGES[kind][rule].told not in line.detail} == {}
    assert {line.end for line in lines.values()} == {End.FAILED}


@pytest.mark.parametrize("kind", CHANGES)
def test_each_rule_has_a_program_that_breaks_it(kind: str) -> None:
    assert set(CHANGES[kind]) == {rule.name for rule in KINDS[kind][0]}


def test_a_program_that_asks_for_nothing_is_not_tried_any_further(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["conformance", "worker", "--", "sh", "-c", "echo no such host >&2; exit 3"]) == 1
    first, second, *_, score = capsys.readouterr().out.splitlines()
    assert first.startswith("failed")
    assert first.endswith("the program ended with status 3: no such host")
    assert second.startswith("not tried")
    assert score == "0 of 1 rules kept, 27 not tried"


def test_chosen_rules_are_told_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    program = [sys.executable, str(EXAMPLES / "producer.py"), *WHERE]
    assert run(["conformance", "client", "--json", "--rule", "ids", "--rule", "many", "--", *program]) == 0
    ids, many, score = map(json.loads, capsys.readouterr().out.splitlines())
    assert (ids["rule"], ids["end"], ids["detail"]) == ("ids", "ok", "")
    assert (many["rule"], many["end"]) == ("many", "not tried")
    assert score == {"ok": True, "score": "1 of 1 rules kept, 1 not tried"}


def test_a_program_is_told_where_by_its_environment_too(capsys: pytest.CaptureFixture[str]) -> None:
    script = f"exec {sys.executable} {EXAMPLES / 'producer.py'} ${{KQS_SERVER%:*}} ${{KQS_SERVER#*:}} echo"
    assert run(["conformance", "client", "--rule", "inserts", "--", "sh", "-c", script]) == 0


def test_a_program_does_not_outlive_its_trial(tmp_path: Path) -> None:
    program = f"echo $$ >{tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; exec sleep 300"
    command = [sys.executable, "-m", "kqs", "conformance", "worker", "--", "sh", "-c", program]
    with subprocess.Popen(command, cwd=ROOT, env=SERVE_ENVIRON, stdout=subprocess.PIPE) as trial:
        eventually((tmp_path / "pid").exists, bool)
        trial.terminate()
        assert trial.wait(30) == 130
    pid = (tmp_path / "pid").read_text().strip()
    eventually(lambda: Path(f"/proc/{pid}/stat").exists(), lambda exists: not exists)


def test_a_wrong_call_breaks_the_rule_that_is_tried(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    program = tmp_path / "worker.py"
    program.write_text((EXAMPLES / "worker.py").read_text().replace('"wait": 2, ', '"wait": 2, "delay": 1, '))
    assert run(["conformance", "worker", "--rule", "reports", "--within", "2", "--", sys.executable, str(program), *WHERE]) == 1
    assert 'a call was refused, bad_call: unknown field "delay"' in capsys.readouterr().out


def test_who_names_no_rule_is_told_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["conformance", "worker", "--rule", "nope", "--", "true"]) == 2
    assert "touches" in capsys.readouterr().err


def test_a_program_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["conformance", "worker", "--", "/nowhere/worker"]) == 74
    assert capsys.readouterr().err == "kqs: /nowhere/worker: no such file or directory\n"


def test_the_page_tells_of_each_rule() -> None:
    page = (EXAMPLES.parent / "docs" / "write-a-client.md").read_text()
    _, section = page.split("## Trying it")
    told = re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \|$", section, re.MULTILINE)
    assert told == [(rule.name, rule.demand) for rules, _ in KINDS.values() for rule in rules]
