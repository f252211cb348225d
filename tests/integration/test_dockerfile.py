"""The Dockerfile: linted, and its steps run in a plain folder, since no container engine runs here."""

import json
import sys
from pathlib import Path
from subprocess import run

import pytest

from tests.support.dockerfile import Image, instructions
from tests.support.serving import ROOT, serving

DOCKERFILE = ROOT / "Dockerfile"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return Image(DOCKERFILE, tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return dict(instructions(DOCKERFILE.read_text()))


def test_the_linter_finds_nothing() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = run([linter, DOCKERFILE], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_server_is_process_one_so_that_sigterm_reaches_it(settings: dict[str, str]) -> None:
    assert json.loads(settings["ENTRYPOINT"]) + json.loads(settings["CMD"])[:1] == ["kqs", "serve"]
    assert settings["STOPSIGNAL"] == "SIGTERM"


def test_it_runs_as_a_number_that_is_not_root(settings: dict[str, str]) -> None:
    assert int(settings["USER"].split(":")[0]) > 0


def test_the_journal_is_on_the_volume(settings: dict[str, str]) -> None:
    assert f"KQS_JOURNAL__DIR={settings['VOLUME']}" in settings["ENV"].split()


def test_the_build_context_holds_all_that_is_copied_and_no_more() -> None:
    steps = instructions(DOCKERFILE.read_text())
    copied = {word for keyword, rest in steps if keyword == "COPY" and "--from" not in rest for word in rest.split()[:-1]}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[0] == "*"
    assert copied == {line[1:] for line in lines if line.startswith("!")}


@pytest.mark.slow
def test_the_built_server_serves_and_ends_well_on_sigterm(image: Image) -> None:
    with serving(image.workdir, image.argv, image.environ) as served:
        assert [json.loads(answer)["m"] for answer in served.ask('{"n":"ping"}')] == ["pong"]
        health = json.loads(image.settings["HEALTHCHECK"].partition(" CMD ")[2])
        environ = image.environ | {"KQS_SERVER": f"localhost:{served.port}"}
        assert run(health, env=environ, capture_output=True, timeout=30).returncode == 0
        assert served.stop() == 0
