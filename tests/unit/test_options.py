import math
import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

import kqs.options
from kqs.options import (
    Cascade,
    JobFields,
    OptionFields,
    Options,
    OwnFields,
    allowed,
    expected,
    is_option,
    is_type,
    own_options,
)


def a_job(**fields: object) -> JobFields:
    return msgspec.convert({"type": "mail", **fields}, JobFields)


def test_later_layers_of_the_cascade_win() -> None:
    cascade = Cascade({"ttr": 1.0, "retries": 1, "prio": "low"}, {"mail": {"retries": 3}})
    cascade.set_handler_options("mail", {"ttr": 2.0, "retries": 2})
    assert cascade.of_type["other"] == Options(ttr=1.0, retries=1, prio=11000)
    assert cascade.of_type["mail"] == Options(ttr=2.0, retries=3, prio=11000)
    own = own_options(a_job(retries=4, prio="urgent"))
    assert cascade.resolve("mail", own) == Options(ttr=2.0, retries=4, prio=8000)


def test_null_leaves_the_default() -> None:
    assert own_options(a_job(ttr=None, prio=None)) is None


def test_type_id_and_at_are_no_options() -> None:
    assert own_options(a_job(id="x", at=5)) is None


def test_a_handler_that_registers_late_still_counts() -> None:
    cascade = Cascade({}, {})
    assert cascade.of_type["mail"].ttr == 30
    cascade.set_handler_options("mail", {"ttr": 5.0})
    assert cascade.of_type["mail"].ttr == 5


def test_types_without_end_do_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.options, "_MAX_CACHED_TYPES", 3)
    cascade = Cascade({}, {})
    for number in range(10):
        cascade.of_type[f"t{number}"]
    assert len(cascade.of_type) <= 3


def test_every_option_field_resolves_to_an_option_of_its_name() -> None:
    assert set(OptionFields.__struct_fields__) == set(Options.__struct_fields__)


@pytest.mark.parametrize("name", ["a", "é" * 100, "a b", "☃"])
def test_a_type_is_printable_text(name: str) -> None:
    assert is_type(name)


@pytest.mark.parametrize(
    "name", ["", "a" * 201, "é" * 101, "a\tb", "\ud800", "\x7f", "a\u3164", "a\ufe0f", "a\u034f", "\u2800"]
)
def test_no_other_text_is_a_type(name: str) -> None:
    assert not is_type(name)


class WiderFields(OptionFields, kw_only=True):
    """What a version with one more option would have, said once."""

    colour: Annotated[int, Meta(ge=1, le=7)] | None = None
    shape: Literal["round", "square"] | None = None


def test_what_a_new_field_may_be_is_told_by_the_field_alone() -> None:
    assert expected(WiderFields, "colour") == "an integer from 1 to 7"
    assert expected(WiderFields, "shape") == '"round" or "square"'
    assert expected(WiderFields, "ttr") == expected(OptionFields, "ttr") == "a number of seconds from 0.1 to 2147483648"


def test_checkers_know_every_field_that_a_program_may_give() -> None:
    not_given = {"type", "data", "answer", "wait", "tick", "copies", "members"}
    assert set(OwnFields.__annotations__) == set(JobFields.__struct_fields__) - not_given


@pytest.mark.parametrize("name", JobFields.__struct_fields__)
def test_what_every_field_may_be_can_be_told(name: str) -> None:
    assert expected(JobFields, name)


NUMBERS = [name for name in OptionFields.__struct_fields__ if name not in ("auto_touch", "backoff", "resource")]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [1e308, math.inf, -math.inf, math.nan, 2**63, -(2**63)])
def test_every_number_has_bounds(name: str, value: float) -> None:
    assert not is_option(name, value)
    nearest = allowed(name, value)
    assert nearest is None or is_option(name, nearest)


@pytest.mark.parametrize(
    ("name", "value", "nearest"),
    [
        ("time_limit", 1e308, 1e10),
        ("keep", 1e308, 1e10),
        ("ttr", 0.01, 0.1),
        ("retries", 2**40, 2**31 - 1),
        ("prio", 2**40, 2**32 - 1),
        ("ttr", 5, 5),
        ("ttr", "5", None),
        ("prio", "soon", None),
        ("prio", "low", "low"),
        ("expire", -1, None),
    ],
)
def test_what_wider_bounds_accepted_is_brought_within_ours(name: str, value: object, nearest: object) -> None:
    assert allowed(name, value) == nearest


def test_options_that_wider_bounds_stored_still_resolve() -> None:
    own = b'{"time_limit":1e308,"ttr":5,"colour":1,"backoff":"never","expire":1e300}'
    assert Cascade({}, {}).resolve("mail", own) == Options(ttr=5, time_limit=1e10, expire=1e10)


def test_no_pattern_of_a_field_lets_a_line_feed_stand_at_its_end() -> None:
    """To `re`, which msgspec searches with, `$` is also what stands before one."""
    sources = Path(kqs.options.__file__).parent.rglob("*.py")
    assert [path.name for path in sources if re.search(r'pattern=r?"[^"\n]*\$"', path.read_text())] == []
