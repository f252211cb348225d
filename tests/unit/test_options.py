import msgspec
import pytest

import kqs.options
from kqs.options import Cascade, JobFields, OptionFields, Options, is_type, own_options


def a_job(**fields: object) -> JobFields:
    return msgspec.convert({"type": "mail", **fields}, JobFields)


def test_later_layers_of_the_cascade_win() -> None:
    cascade = Cascade({"ttr": 1.0, "retries": 1, "prio": "low"}, {"mail": {"retries": 3}})
    cascade.set_handler_options("mail", {"ttr": 2.0, "retries": 2})
    assert cascade.for_type("other") == Options(ttr=1.0, retries=1, prio=11000)
    assert cascade.for_type("mail") == Options(ttr=2.0, retries=3, prio=11000)
    own = own_options(a_job(retries=4, prio="urgent"))
    assert cascade.resolve("mail", own) == Options(ttr=2.0, retries=4, prio=8000)


def test_null_leaves_the_default() -> None:
    assert own_options(a_job(ttr=None, prio=None)) is None


def test_type_id_and_at_are_no_options() -> None:
    assert own_options(a_job(id="x", at=5)) is None


def test_a_handler_that_registers_late_still_counts() -> None:
    cascade = Cascade({}, {})
    assert cascade.for_type("mail").ttr == 30
    cascade.set_handler_options("mail", {"ttr": 5.0})
    assert cascade.for_type("mail").ttr == 5


def test_types_without_end_do_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.options, "_MAX_CACHED_TYPES", 3)
    cascade = Cascade({}, {})
    for number in range(10):
        cascade.for_type(f"t{number}")
    assert len(cascade._cache) <= 3


def test_every_option_field_resolves_to_an_option_of_its_name() -> None:
    assert set(OptionFields.__struct_fields__) == set(Options.__struct_fields__)


@pytest.mark.parametrize("name", ["a", "é" * 100, "a b", "☃"])
def test_a_type_is_printable_text(name: str) -> None:
    assert is_type(name)


@pytest.mark.parametrize("name", ["", "a" * 201, "é" * 101, "a\tb", "\ud800", "\x7f"])
def test_no_other_text_is_a_type(name: str) -> None:
    assert not is_type(name)
