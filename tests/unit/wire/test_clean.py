from __future__ import annotations

import pytest

from kqs.options import JobFields
from kqs.wire import clean
from kqs.wire.clean import at_seconds
from kqs.wire.jobs import decode_job
from tests.support.jobs import refused


@pytest.mark.parametrize("value", ["null", "1", '""', '"\\u0000"', '"a\\nb"', '"\\u2028"', f'"{"x" * 201}"', f'"{"é" * 101}"'])
def test_a_type_is_short_printable_text(value: str) -> None:
    assert refused(f'{{"type":{value}}}').startswith("type: expected 1 to 200 bytes of printable text")


@pytest.mark.parametrize("value", ["a", "x" * 200, "é" * 100, "send mail/now"])
def test_a_type_of_up_to_200_bytes_passes(value: str) -> None:
    assert decode_job(f'{{"type":"{value}"}}'.encode()).type == value


@pytest.mark.parametrize("name", ["\u202e", "a\u200db", "\ufeffa", "\u2066x", "\ue000", "\U000e0041", "\u2029", "\u00ad"])
def test_what_deceives_a_reader_is_no_type(name: str) -> None:
    message = refused(f'{{"type":"{name}"}}')
    assert message.startswith("type: expected 1 to 200 bytes of printable text")
    assert message.isprintable()


@pytest.mark.parametrize("value", ["1", '""', '"a b"', '"a\\n"', f'"{"x" * 201}"', '"é"'])
def test_an_id_keeps_to_its_pattern(value: str) -> None:
    assert refused(f'{{"type":"a","id":{value}}}').startswith("id: expected 1 to 200 of")


@pytest.mark.parametrize("field", ["resource", "unique", "group"])
@pytest.mark.parametrize("name", ["", "a\\nb", "\u202e", "x" * 201])
def test_names_of_resources_and_keys_are_as_those_of_types(field: str, name: str) -> None:
    assert refused(f'{{"type":"a","{field}":"{name}"}}').startswith(f"{field}: expected 1 to 200 bytes of printable text")


@pytest.mark.parametrize("name", ["", "a b", "x" * 201])
def test_a_batch_is_named_as_a_job_is(name: str) -> None:
    assert refused(f'{{"type":"a","batch":"{name}"}}').startswith("batch: expected 1 to 200 of A-Z a-z 0-9 . _ : -")
    assert decode_job(b'{"type":"a","batch":"B.1_2:3-4"}') == JobFields(type="a", batch="B.1_2:3-4")


def test_delay_and_at_exclude_each_other() -> None:
    assert refused('{"type":"a","delay":1,"at":5}') == "delay and at: expected one of them, got both"
    assert decode_job(b'{"type":"a","delay":null,"at":5}').type == "a"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(5, 5.0), (-1.5, -1.5), ("1970-01-01T00:00:10Z", 10.0), ("1970-01-01t01:00:00.25+01:00", 0.25)],
)
def test_at_is_a_time_or_unix_seconds(value: float | str, seconds: float) -> None:
    assert at_seconds(value) == seconds


def test_good_types_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean, "_MAX_KNOWN_TYPES", 3)
    monkeypatch.setattr(clean, "_known_types", set())
    for number in range(10):
        decode_job(b'{"type":"t%d"}' % number)
    assert len(clean._known_types) <= 3
