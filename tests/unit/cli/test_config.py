"""What `kqs config show` tells of a configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kqs.cli import run

FILE = """
[store]
uri = "mongodb://me:secret@host/kqs"
[types.mail]
ttr = 5
[schedules.tick]
every = 5.0
type = "mail"
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "kqs.toml").write_text(FILE)
    return str(tmp_path / "kqs.toml")


def test_a_variable_that_lacks_an_underscore_is_told(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KQS_SERVER_PORT", "14152")
    assert run(["config", "show", "--config", path]) == 0
    told = capsys.readouterr()
    assert told.err == "kqs: environment KQS_SERVER_PORT sets nothing, expected KQS_SERVER__PORT\n"
    assert "14152" not in told.out


def test_each_setting_is_shown_with_where_it_comes_from(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KQS_TYPES__MAIL__RETRIES", "7")
    assert run(["config", "show", "--config", path]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f'store.uri = "mongodb://…@host/kqs"  # {path}',
        f"types.mail.ttr = 5  # {path}",
        "types.mail.retries = 7  # KQS_TYPES__MAIL__RETRIES",
        f"schedules.tick.every = 5.0  # {path}",
        f'schedules.tick.type = "mail"  # {path}',
    ]
    assert run(["config", "show", "--config", path, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[2] == {"setting": "types.mail.retries", "value": 7, "from": "KQS_TYPES__MAIL__RETRIES"}


def test_a_wrong_one_is_told_and_nothing_shown(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KQS_TYPES__MAIL__TTRR", "7")
    assert run(["config", "show", "--config", path]) == 78
    shown = capsys.readouterr()
    assert (shown.out, "unknown setting" in shown.err) == ("", True)
