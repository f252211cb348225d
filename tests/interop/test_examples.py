"""The programs in examples/, against a real server and against the script that plays one."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from select import select
from threading import Thread
from typing import Any

import pytest

from kqs.cli import COMMANDS
from kqs.conformance.score import End
from tests.support.asking import ask, eventually, peer_of
from tests.support.conformance import Trial, told_of
from tests.support.examples import EXAMPLES, JAVA_OPTIONS, JAVAC_OPTIONS, LANGUAGES, Example
from tests.support.require import require
from tests.support.serving import ROOT, Served, free_port, serving

WITHIN_S = 60
WHERE = ["{host}", "{port}"]
LINES = ['{"n":1,"text":"é \\"q\\" \\\\ $(n)"}', '"two"', "[3,null,true]"]


ExampleOf = Callable[[str], Example]


@pytest.fixture(scope="module")
def example_of(tmp_path_factory: pytest.TempPathFactory) -> ExampleOf:
    """Returns the commands of a language, built when they are first asked for: no test alters them."""
    return cache(lambda language: LANGUAGES[language](tmp_path_factory.mktemp(language)))


@contextmanager
def working(command: list[str]) -> Iterator[None]:
    """Run a worker within the block; then it must end in good order at SIGTERM."""
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as worker:
        try:
            yield
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(WITHIN_S) == 0
        finally:
            worker.kill()


def test_each_example_is_short() -> None:
    longest = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.iterdir() if path.suffix != ".md"}
    assert {name: count for name, count in longest.items() if count >= 80} == {}


@pytest.mark.parametrize("language", LANGUAGES)
def test_jobs_of_the_producer_are_run_by_the_worker_also_after_the_server_was_killed(
    language: str, example_of: ExampleOf, tmp_path: Path
) -> None:
    example = example_of(language)
    port = free_port()
    where = ["127.0.0.1", str(port)]
    with ExitStack() as last, working([*example.worker, *where]):
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
        last.enter_context(serving(tmp_path, SERVER__PORT=str(port), WORKER__CONCURRENCY="0"))  # for its last report


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_worker_whose_server_was_killed_before_it_answered_a_report_can_be_stopped(
    language: str, example_of: ExampleOf, tmp_path: Path
) -> None:
    example = example_of(language)
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server, killing_at_report(server) as port:
        with peer_of(server) as peer:
            peer.insert("echo", 1)
        with subprocess.Popen([*example.worker, "127.0.0.1", str(port)], stderr=subprocess.PIPE, text=True) as worker:
            try:
                server.process.wait(WITHIN_S)
                worker.send_signal(signal.SIGTERM)
                assert worker.wait(WITHIN_S) == 1
                assert worker.stderr is not None
                assert "nobody takes the" in worker.stderr.read()
            finally:
                worker.kill()


#: what the `echo` of a worker returns instead of its data: language, file -> old, new, what the job's end is
UNFIT = {
    "a number that JSON does not have, of Python": ("worker.py", "else data\n", 'else float("nan")\n', ("fail", None)),
    "half a character, of Python": ("worker.py", "else data\n", 'else "\\ud83d"\n', ("fail", None)),
    "no value of JSON, of Python": ("worker.py", "else data\n", "else Event()\n", ("fail", None)),
    "no value of JSON, of Go": ("worker.go", '"result": data', '"result": make(chan int)', ("fail", None)),
    "a number that JSON does not have, of Node": ("worker.js", "async (data) => data", "async () => [NaN]", ("fail", None)),
    "a number that JSON does not have, of Java": ("Worker.java", "return data;", "return Double.NaN;", ("fail", None)),
    "no value of JSON, of Java": ("Worker.java", "return data;", "return TYPES.stream();", ("fail", None)),
    "no JSON, of the shell": ("worker.sh", "exec cat", "echo {", ("fail", None)),
    "nothing, of the shell": ("worker.sh", "exec cat", "exec true", ("success", None)),
    "no value of JSON, of Node": ("worker.js", "async (data) => data", "async () => 10n", ("fail", None)),
    "half a character, of Node": ("worker.js", "async (data) => data", "async () => '😀'.slice(0, 1)", ("fail", None)),
    "half a character as reason, of Python": ("worker.py", "else data\n", 'else {}["\\ud83d"]\n', ("fail", None)),
    "half a character as reason, of Node": (
        "worker.js",
        "async (data) => data",
        "async () => { throw '\\ud83d' }",
        ("fail", None),
    ),
    "half a character, of Java": ("Worker.java", "return data;", 'return "\\ud83d";', ("success", "?")),
    "too long, of Python": ("worker.py", "else data\n", 'else "x" * 200_000\n', ("fail", None)),
    "too long, of Node": ("worker.js", "async (data) => data", "async () => 'x'.repeat(200000)", ("fail", None)),
    "too long, of Go": ("worker.go", '"result": data', '"result": fmt.Sprintf("%200000d", 1)', ("fail", None)),
    "too long, of Java": ("Worker.java", "return data;", 'return "x".repeat(200_000);', ("fail", None)),
    "too long, of the shell": ("worker.sh", "exec cat", "exec jq -n '\"x\" * 200000'", ("fail", None)),
    "too deep, of Python": ("worker.py", "else data\n", 'else json.loads("[" * 70 + "]" * 70)\n', ("fail", None)),
    "too deep, of Node": (
        "worker.js",
        "async (data) => data",
        "async () => JSON.parse('['.repeat(70) + ']'.repeat(70))",
        ("fail", None),
    ),
    "too deep, of Go": (
        "worker.go",
        '"result": data',
        '"result": func() any { for i := 0; i < 70; i++ { data = []any{data} }; return data }()',
        ("fail", None),
    ),
    "too deep, of Java": ("Worker.java", "return data;", 'return Json.read("[".repeat(70) + "]".repeat(70));', ("fail", None)),
    "too deep, of the shell": ("worker.sh", "exec cat", "exec jq -nc 'reduce range(70) as $_ (1; [.])'", ("fail", None)),
    "nothing, of Node": ("worker.js", "async (data) => data", "async () => {}", ("success", None)),
}


@pytest.mark.parametrize("unfit", UNFIT)
def test_a_result_that_no_server_can_read_holds_up_no_worker(unfit: str, tmp_path: Path) -> None:
    name, old, new, end = UNFIT[unfit]
    source = (EXAMPLES / name).read_text()
    assert old in source
    (tmp_path / name).write_text(source.replace(old, new))
    with serving(tmp_path, WORKER__CONCURRENCY="0", SERVER__MAX_LINE_BYTES="100000") as server, peer_of(server) as peer:
        ids = [peer.insert("echo", 1, retries=0, ttr=600) for _ in range(2)]
        with working([*_command(tmp_path / name), "127.0.0.1", str(server.port)]):
            for job_id in ids:
                job = eventually(partial(ask, server, "job", job_id), lambda job: bool(job["ended_at"]), WITHIN_S)
                assert (job["state"], job["result"]) == end
                assert bool(job["error"]) is (end[0] == "fail")


def _command(program: Path) -> list[str]:
    match program.suffix:
        case ".py":
            return [sys.executable, str(program)]
        case ".js":
            return [require("node"), str(program)]
        case ".sh":
            for tool in ("nc", "jq"):
                require(tool)
            return ["sh", str(program)]
        case ".java":
            sources = [program, EXAMPLES / "Kqs.java", EXAMPLES / "Json.java"]
            subprocess.run([require("javac"), *JAVAC_OPTIONS, "-d", program.parent, *sources], check=True, timeout=4 * WITHIN_S)
            return [require("java"), *JAVA_OPTIONS, "-cp", str(program.parent), "Worker"]
        case _:
            shutil.copy(EXAMPLES / "connection.go", program.parent)
            build = [require("go"), "build", "-o", "built", program.name, "connection.go"]
            subprocess.run(build, cwd=program.parent, check=True, timeout=4 * WITHIN_S)
            return [str(program.parent / "built")]


#: numbers that not every language has
NUMBERS = ["1e400", "9007199254740993", "1e99999999999", "9" * 5000]
#: language -> the numbers that its worker keeps; a job with another fails, or the shell's jq makes a number it has of it
KEPT = {"shell": [], "node": [], "python": NUMBERS[1:2], "go": NUMBERS, "java": [NUMBERS[0], NUMBERS[1], NUMBERS[3]]}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_job_with_a_number_that_a_language_does_not_have_ends_at_once(
    language: str, example_of: ExampleOf, tmp_path: Path
) -> None:
    example = example_of(language)
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server:
        job = '{"type":"echo","data":%s,"retries":0,"ttr":600}'
        ids = [told(server, "insert", job % number) for number in NUMBERS]
        with working([*example.worker, "127.0.0.1", str(server.port)]):
            for number, job_id in zip(NUMBERS, ids, strict=True):
                look = partial(told, server, "job", json.dumps(job_id))
                record = eventually(look, lambda record: bool(record["ended_at"]), WITHIN_S)
                assert (record["attempt"], record["ghosts"]) == (1, 0)
                if number in KEPT[language]:
                    assert (record["state"], record["result"]) == ("success", Decimal(number))
                elif language != "shell" and number != NUMBERS[1]:
                    assert (record["state"], record["result"]) == ("fail", None)


@pytest.mark.parametrize("language", LANGUAGES)
def test_data_of_another_shape_than_a_type_expects_ends_its_job_alone(
    language: str, example_of: ExampleOf, tmp_path: Path
) -> None:
    example = example_of(language)
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server, peer_of(server) as peer:
        shapes = [None, 7, "text", [1], {"s": "text", "reason": 5}]
        odd = [peer.insert(type_, data, retries=0, ttr=600) for type_ in ("sleep", "fail") for data in shapes]
        last = peer.insert("echo", 1, retries=0)
        with working([*example.worker, "127.0.0.1", str(server.port)]):
            for job_id in [*odd, last]:
                record = eventually(partial(ask, server, "job", job_id), lambda record: bool(record["ended_at"]), WITHIN_S)
                assert (record["attempt"], record["ghosts"]) == (1, 0), record
            assert record["result"] == 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_producer_makes_no_other_number_of_one_that_its_language_does_not_have(
    language: str, example_of: ExampleOf, tmp_path: Path
) -> None:
    example = example_of(language)
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server:
        command = [*example.producer, "127.0.0.1", str(server.port), "echo"]
        lines = "".join(f"{number}\n" for number in NUMBERS)
        done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=WITHIN_S)
        answers = done.stdout.splitlines()
        assert len(answers) == len(NUMBERS), done.stderr
        for number, answer in zip(NUMBERS, answers, strict=True):
            if answer.startswith("refused: "):
                assert (done.returncode, number in (NUMBERS[0], NUMBERS[2])) == (1, True)
            else:
                assert told(server, "job", json.dumps(answer))["data"] == Decimal(number)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_producer_prints_ids_of_jobs_that_are_waited_for_by_default(
    language: str, example_of: ExampleOf, tmp_path: Path
) -> None:
    example = example_of(language)
    with serving(tmp_path, TYPES__ECHO__WAIT="60") as server:
        command = [*example.producer, "127.0.0.1", str(server.port), "echo"]
        done = subprocess.run(command, input="1\n2\n3\n", capture_output=True, text=True, timeout=WITHIN_S)
        assert [ask(server, "job", job_id)["data"] for job_id in done.stdout.split()] == [1, 2, 3]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_producer_tells_of_lines_that_nobody_can_take_and_inserts_the_others(
    language: str, example_of: ExampleOf, tmp_path: Path
) -> None:
    example = example_of(language)
    lines = ["1", "[" * 70 + "]" * 70, "{", "1 2", "", f'"{"x" * 200_000}"', "2"]  # the last has no end
    with serving(tmp_path, WORKER__CONCURRENCY="0", SERVER__MAX_LINE_BYTES="100000") as server:
        command = [*example.producer, "127.0.0.1", str(server.port), "echo"]
        done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, timeout=WITHIN_S)
        told = done.stdout.splitlines()
        refused = sorted(line for line in told if line.startswith("refused: "))
        assert (done.returncode, refused) == (1, ["refused: bad_json"] * 3 + ["refused: too_large"]), done.stderr
        assert sorted(ask(server, "job", job_id)["data"] for job_id in told if job_id not in refused) == [1, 2]


def told(server: Served, name: str, argument: str) -> Any:
    """Return the result of a call whose argument is JSON; numbers are exact."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=WITHIN_S) as connection:
        connection.sendall(f'{{"id":1,"n":"{name}","m":{argument}}}\n'.encode())
        with connection.makefile("rb") as lines:
            return json.loads(lines.readline(), parse_int=Decimal, parse_float=Decimal)["m"]


@contextmanager
def killing_at_report(server: Served) -> Iterator[int]:
    """Yield a port that leads to a server until a report comes, which the server has and never answers: it is killed."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def lead() -> None:
            with listening.accept()[0] as near, socket.create_connection(("127.0.0.1", server.port)) as far:
                while ready := select([near, far], [], [], WITHIN_S)[0]:
                    for one in ready:
                        data = one.recv(65536)
                        if not data or b'"finish"' in data:
                            server.process.send_signal(signal.SIGSTOP)
                            far.sendall(data)
                            server.process.kill()
                            listening.close()
                            return
                        (far if one is near else near).sendall(data)

        leading = Thread(target=lead)
        leading.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.process.kill()
            leading.join(WITHIN_S)


def _result(server: Served, job_id: str) -> object:
    job = eventually(lambda: ask(server, "job", job_id), lambda job: job["state"] == "success", WITHIN_S)
    assert [run["state"] for run in job["runs"]] == ["success"]
    return job["result"]


@pytest.mark.slow
def test_they_keep_every_rule_and_so_do_our_own_client_and_worker(example_of: ExampleOf) -> None:
    trials = {"our client": Trial("producer", [sys.executable, "-m", "tests.support.client_producer", *WHERE, "echo"])}
    if "work" in COMMANDS:
        kqs_work = [sys.executable, "-m", "kqs", "work", "--connect", "{host}:{port}"]
        trials["our worker"] = Trial("worker", [*kqs_work, "tests.support.conformance_handlers"])
        trials["our worker, holding"] = Trial("worker", [*kqs_work, "--hold", "tests.support.conformance_handlers"])
    missing = []
    for language in LANGUAGES:
        try:
            example = example_of(language)
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
    assert "(examples/README.md)" in (ROOT / "README.md").read_text()
