"""deploy/compose.yaml: read and compared with what it deploys, since no container engine runs here."""

from __future__ import annotations

import json
import re
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from subprocess import run
from typing import Any

import pytest

import kqs
from kqs.config import Config, load_config
from tests.support.asking import ask
from tests.support.beanstalkd import running_beanstalkd
from tests.support.dockerfile import instructions
from tests.support.fleet import await_state, run_states, some
from tests.support.mongodb import mongodb
from tests.support.serving import ROOT, serving
from tests.support.yaml import parse

FOLDER = ROOT / "deploy"
COMPOSE = FOLDER / "compose.yaml"
BEANSTALKD = FOLDER / "beanstalkd.Dockerfile"


@pytest.fixture(scope="module")
def fleet() -> dict[str, Any]:
    return parse(COMPOSE.read_text())


@pytest.fixture(scope="module")
def servers(fleet: dict[str, Any]) -> dict[str, Any]:
    return {name: service for name, service in fleet["services"].items() if service["image"].startswith("kqs:")}


@pytest.fixture(scope="module")
def image() -> dict[str, str]:
    return dict(instructions((ROOT / "Dockerfile").read_text()))


@pytest.fixture
def config(servers: dict[str, Any], image: dict[str, str], tmp_path: Path) -> Config:
    """The settings of the first server: the image's own, then those of compose. An unknown one ends the test."""
    (tmp_path / "kqs.toml").write_text((ROOT / "config" / "kqs.toml").read_text())
    own = dict(word.split("=", 1) for word in image["ENV"].split() if word.startswith("KQS_"))
    return load_config(tmp_path / "kqs.toml", own | next(iter(servers.values()))["environment"])


def test_the_client_reads_it() -> None:
    docker = shutil.which("docker")
    if docker is None or run([docker, "compose", "version"], capture_output=True, timeout=60).returncode:
        pytest.skip("docker compose is not installed")
    done = run([docker, "compose", "--file", COMPOSE, "config", "--quiet"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_two_servers_share_one_mongodb_and_two_beanstalkds(
    fleet: dict[str, Any], servers: dict[str, Any], config: Config
) -> None:
    assert len(servers) == 2
    assert len({json.dumps(server["environment"], sort_keys=True) for server in servers.values()}) == 1
    assert (config.store.kind, config.broker.kind) == ("mongodb", "beanstalkd")
    named = [address.split(":")[0] for address in (config.store.uri.removeprefix("mongodb://"), *config.broker.servers)]
    assert len(named) == 3
    assert sorted([*named, *servers]) == sorted(fleet["services"])


def test_each_server_has_a_journal_of_its_own(fleet: dict[str, Any], servers: dict[str, Any], config: Config) -> None:
    volumes = [server["volumes"][0].split(":") for server in servers.values()]
    assert len({volume for volume, _ in volumes}) == len(servers)
    assert {Path(place) for _, place in volumes} == {config.journal.dir}
    mounted = [volume.split(":")[0] for service in fleet["services"].values() for volume in service.get("volumes", ())]
    assert sorted(mounted) == sorted(fleet["volumes"])


def test_only_servers_are_published_and_only_on_loopback(
    fleet: dict[str, Any], servers: dict[str, Any], image: dict[str, str]
) -> None:
    published = {name: service["ports"] for name, service in fleet["services"].items() if "ports" in service}
    assert published.keys() == servers.keys()
    ports = [port.split(":") for (port,) in published.values()]
    assert {(host, inside) for host, _, inside in ports} == {("127.0.0.1", image["EXPOSE"])}
    assert len({outside for _, outside, _ in ports}) == len(servers)


def test_every_image_has_a_fixed_tag(fleet: dict[str, Any], servers: dict[str, Any]) -> None:
    images = {service["image"] for service in fleet["services"].values()}
    assert all(re.fullmatch(r"[\w-]+:\d[\w.]*", image) for image in images)
    assert {server["image"] for server in servers.values()} == {f"kqs:{kqs.__version__}"}


def test_every_service_has_a_health_check(fleet: dict[str, Any]) -> None:
    for service in fleet["services"].values():
        build = service.get("build")
        if build is None:
            assert "healthcheck" in service
        else:
            dockerfile = ROOT / "Dockerfile" if build == ".." else FOLDER / build["dockerfile"]
            assert "HEALTHCHECK" in dict(instructions(dockerfile.read_text()))


def test_a_stop_may_take_as_long_as_the_server_asks_for(servers: dict[str, Any], config: Config) -> None:
    assert {server["stop_grace_period"] for server in servers.values()} == {"60s"}
    assert config.worker.grace_s + 30 <= 60


def test_the_linter_finds_nothing_in_the_image_of_beanstalkd() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = run([linter, BEANSTALKD], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_health_check_of_beanstalkd_tells_whether_it_answers() -> None:
    check = json.loads(dict(instructions(BEANSTALKD.read_text()))["HEALTHCHECK"].partition(" CMD ")[2])
    with running_beanstalkd() as beanstalkd:
        asked = [word.replace("11300", str(beanstalkd.port)) for word in check]
        assert run(asked, capture_output=True, timeout=10).returncode == 0
    assert run(asked, capture_output=True, timeout=10).returncode != 0


@pytest.mark.slow
def test_the_servers_as_they_are_set_up_are_one_queue(fleet: dict[str, Any], servers: dict[str, Any], tmp_path: Path) -> None:
    with ExitStack() as stack:
        places = {"mongodb:27017": stack.enter_context(mongodb(tmp_path)).removeprefix("mongodb://")}
        for name in fleet["services"].keys() - servers.keys() - {"mongodb"}:
            places[f"{name}:11300"] = stack.enter_context(running_beanstalkd()).address
        first, second = (
            stack.enter_context(serving(made(tmp_path / name), **settings_of(server, places)))
            for name, server in servers.items()
        )
        (job_id,) = ask(first, "insert", some("ping", [1]))
        assert run_states(await_state(second, job_id, "success")) == ["success"]


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def settings_of(server: dict[str, Any], places: dict[str, str]) -> dict[str, str]:
    """Return what a server is told, with real addresses for the names of services."""
    told = json.dumps({name.removeprefix("KQS_"): value for name, value in server["environment"].items()})
    for name, place in places.items():
        told = told.replace(name, place)
    settings: dict[str, str] = json.loads(told)
    return settings
