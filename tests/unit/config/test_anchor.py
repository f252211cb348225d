from __future__ import annotations

from pathlib import Path

import pytest

from kqs.config import CommandSection, Config, ServerSection, StoreSection, anchored
from kqs.errors import ExitCode, StartupError

HERE = Path("/srv/queue")


def test_the_defaults_stand_in_the_folder_of_the_start() -> None:
    config = anchored(Config(), HERE)
    assert config.journal.dir == HERE / "journal"
    assert config.store_path == HERE / "journal" / "store.sqlite"
    assert config.server.socket == ""


def test_relative_paths_become_absolute_and_absolute_ones_stay() -> None:
    config = Config(server=ServerSection(socket="run/kqs.sock"), store=StoreSection(uri="../store.sqlite"))
    found = anchored(config, HERE)
    assert (found.server.socket, found.store.uri) == ("/srv/queue/run/kqs.sock", "/srv/queue/../store.sqlite")
    assert anchored(found, Path("/elsewhere")) == found


def test_a_socket_that_an_absolute_path_could_not_name_stays_relative() -> None:
    config = Config(server=ServerSection(socket="kqs.sock"))
    assert anchored(config, HERE / ("x" * 100)).server.socket == "kqs.sock"


def test_the_uri_of_a_mongodb_is_no_path() -> None:
    config = Config(store=StoreSection(kind="mongodb", uri="mongodb://localhost/kqs"))
    assert anchored(config, HERE).store.uri == "mongodb://localhost/kqs"


@pytest.mark.parametrize(
    "uri", ["mongodb://localhost/kqs", "file:store.sqlite", "FILE:///srv/store.sqlite?mode=ro", "sqlite:///x"]
)
def test_a_uri_is_no_path_of_a_sqlite_file(uri: str) -> None:
    with pytest.raises(StartupError, match="expects the path of a file") as caught:
        anchored(Config(store=StoreSection(uri=uri)), HERE)
    assert caught.value.exit_code == ExitCode.CONFIG


@pytest.mark.parametrize("uri", ["a:b.sqlite", "profile:x", "my-file:1"])
def test_a_colon_alone_makes_no_uri(uri: str) -> None:
    assert anchored(Config(store=StoreSection(uri=uri)), HERE).store.uri == f"/srv/queue/{uri}"


def test_a_program_that_is_a_path_is_taken_from_the_folder_and_a_name_is_not() -> None:
    commands = {
        "a": CommandSection(command=["./a.sh", "./b"]),
        "b": CommandSection(command=["python3", "./b.py"]),
        "c": CommandSection(command=["/bin/c"]),
    }
    found = anchored(Config(commands=commands), HERE)
    assert [section.command for section in found.commands.values()] == [
        ["/srv/queue/a.sh", "./b"],
        ["python3", "./b.py"],
        ["/bin/c"],
    ]
    assert found.folder == HERE
    assert anchored(found, Path("/elsewhere")) == found


def test_a_login_in_it_is_not_told() -> None:
    with pytest.raises(StartupError) as refused:
        anchored(Config(store=StoreSection(uri="mongodb://me:sec@ret@host/kqs")), HERE)
    assert str(refused.value).startswith("store.uri: 'mongodb://…@host/kqs': the kind sqlite expects")
