import pytest

from kqs.wire import scan
from kqs.wire.scan import BLOCK_BYTES, SHORT_BYTES, Scan, deepest, end_of_value, runs
from kqs.wire.steps import finish


@pytest.fixture(params=[3, 7, 64])
def _small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "BLOCK_BYTES", request.param)
    monkeypatch.setattr(scan, "SHORT_BYTES", 2 * request.param)


VALUES = [
    b"1",
    b'""',
    rb'"a\"b\\"',
    rb'"\\\\\\\\\\\\"',
    b"[]",
    b'[{"a":[1,"]}\\\\\\"[",[]]},[[2]]]',
    b'{"a":{"b":["{","}"]},"c":[]}',
    b"-1.5e3",
]


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("rest", [b"", b",1]", b" }", b"]"])
def test_a_value_ends_where_it_ends(value: bytes, rest: bytes) -> None:
    assert finish(end_of_value(b"[ " + value + rest, 2)) == 2 + len(value)


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize(("text", "levels"), [(b"1", 0), (VALUES[5], 4), (VALUES[6], 3), (b'"' + b"[" * 99 + b'"', 0)])
def test_levels_are_counted_across_blocks(text: bytes, levels: int) -> None:
    assert finish(deepest(text)) == levels


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize("text", [b"[%b]" % b" , ".join(VALUES * 3), b"  [%b]" % b",".join(VALUES), b"[]", b"[1]", b'["a"]  '])
def test_the_runs_of_an_array_are_its_elements(text: bytes) -> None:
    found = [run for run in runs(text) if run is not None]
    elements = b",".join(run.strip()[1:-1] for _, run in found)
    assert b"[%b]" % elements == text.strip()
    for offset, run in found:
        assert text[offset + 1 : offset + len(run) - 1].strip() == run.strip()[1:-1].strip() or offset == 0


@pytest.mark.usefixtures("_small_blocks")
def test_the_runs_of_an_object_are_objects() -> None:
    text = b"{" + b",".join(b'"k%d":%b' % pair for pair in enumerate(VALUES * 2)) + b"}"
    found = [run for run in runs(text) if run is not None]
    assert all(run.startswith(b"{") and run.endswith(b"}") for _, run in found)
    assert b"{%b}" % b",".join(run[1:-1] for _, run in found) == text


def test_a_short_text_is_one_run() -> None:
    text = b"[" + b" " * (SHORT_BYTES - 2) + b"]"
    assert list(runs(text)) == [(0, text)]


def test_a_block_never_ends_within_an_escape() -> None:
    for count in range(BLOCK_BYTES - 3, BLOCK_BYTES + 3):
        found = Scan(b"[" + b'"' + b"x" * (count - 2) + rb'\\\"x"]')
        assert found.text[: found.end].count(b"\\") % 2 == 0
