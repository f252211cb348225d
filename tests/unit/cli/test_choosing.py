from typing import Any

import click
import pytest
from click.testing import CliRunner

from kqs.cli.choosing import chosen, filter_options


def filter_of(*arguments: str) -> dict[str, object]:
    found: dict[str, object] = {}

    @click.command()
    @filter_options
    def command(**values: Any) -> None:
        found.update(chosen(values), rest=values)

    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert found.pop("rest") == {}
    return found


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((), {}),
        (("--type", "a", "--resource", "r"), {"type": "a", "resource": "r"}),
        (("--state", "fail"), {"state": "fail"}),
        (("--state", "fail", "--state", "cancelled"), {"state": ["fail", "cancelled"]}),
        (("--older-than", "1.5", "--match", '"img":7'), {"older_than": 1.5, "match": '"img":7'}),
    ],
)
def test_the_options_make_a_filter(arguments: tuple[str, ...], wanted: dict[str, object]) -> None:
    assert filter_of(*arguments) == wanted
