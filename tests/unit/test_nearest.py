from kqs.nearest import unknown_name


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    assert unknown_name("field", "pri", ("prio", "ttr")) == 'unknown field "pri"; the nearest known one is "prio"'


def test_where_nothing_is_known_nothing_is_near() -> None:
    assert unknown_name("field", "pri", ()) == 'unknown field "pri"'


def test_a_long_name_is_cut_short() -> None:
    assert unknown_name("field", "x" * 1000, ("prio",)) == f'unknown field "{"x" * 59}…; the nearest known one is "prio"'
