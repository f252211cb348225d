import pytest

from kqs.words.nearest import unknown_name


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    assert unknown_name("field", "pri", ("prio", "ttr")) == 'unknown field "pri"; the nearest known one is "prio"'


@pytest.mark.parametrize("name", ["push", "kick", "enqueue", "x", ""])
def test_what_is_not_near_is_not_suggested(name: str) -> None:
    assert unknown_name("call", name, ("quit", "insert", "job", "jobs", "stats")) == f'unknown call "{name}"'


def test_where_nothing_is_known_nothing_is_near() -> None:
    assert unknown_name("field", "pri", ()) == 'unknown field "pri"'


def test_a_long_name_is_cut_short() -> None:
    assert unknown_name("field", "x" * 1000, ("prio",)) == f'unknown field "{"x" * 59}…'


def test_a_name_that_deceives_is_shown_as_escapes() -> None:
    assert unknown_name("call", "ping\u202e", ("ping",)) == 'unknown call "ping\\u202e"; the nearest known one is "ping"'
