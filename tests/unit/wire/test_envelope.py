import pytest
from msgspec import Raw

from kqs.errors import CallError
from kqs.wire import envelope
from kqs.wire.members import Reader
from kqs.wire.steps import finish

READER = Reader("n", "m", "b")


def read(text: bytes) -> envelope.Envelope:
    return finish(envelope.reading(text, READER, ("n", "m")))


def test_an_envelope_is_read_as_raw_values() -> None:
    assert read(b' {"n":"echo" , "m":[1, 2]}\r\n').found == {"n": Raw(b'"echo"'), "m": Raw(b"[1, 2]")}


@pytest.mark.parametrize("text", [b"[]", b"5", b"null"])
def test_json_that_is_no_object_is_no_call(text: bytes) -> None:
    with pytest.raises(CallError, match="expected a call as a JSON object") as caught:
        read(text)
    assert caught.value.call_code == "bad_call"


@pytest.mark.parametrize(
    "text", [b"{", b"", b"5x", b"[1", b'{"m":"\xff"}', b'{"m":NaN}', b"[" * 10_000, b'{"m":' + b"[" * 64 + b"]" * 64 + b"}"]
)
def test_what_is_no_json_is_told_so(text: bytes) -> None:
    with pytest.raises(CallError) as caught:
        read(text)
    assert caught.value.call_code == "bad_json"


@pytest.mark.parametrize("text", [b'{"n":1}', b'{"b":1,"b":2}', b'{"n":{"n":1,"m":"n"}}', rb'{"n":"\u0061"}'])
def test_keys_that_stand_once_pass(text: bytes) -> None:
    assert read(text).fault is None


@pytest.mark.parametrize("text", [b'{"n":1,"n":2}', rb'{"n":1,"\u006e":2}', b'{"m":{"m":1},"m":{}}'])
def test_keys_that_stand_twice_are_refused(text: bytes) -> None:
    assert str(read(text).fault).endswith("stands twice")


def test_the_first_fault_is_told_and_the_values_behind_it_are_known() -> None:
    found = read(b'{"nn":1,"mm":2,"n":"a"}')
    assert str(found.fault) == 'unknown key "nn"; the nearest known one is "n"'
    assert found.found == {"n": Raw(b'"a"')}


def test_a_name_is_text() -> None:
    assert envelope.name_of("n", {"n": Raw(b'"p\\u0069ng"')}) == "ping"
    with pytest.raises(CallError, match="n: missing"):
        envelope.name_of("n", {})
    with pytest.raises(CallError, match="n: expected a text, got 5"):
        envelope.name_of("n", {"n": Raw(b"5")})


@pytest.mark.parametrize("raw", [b"1", b"-1.5e3", b'""', b'"' + b"x" * 198 + b'"'])
def test_an_id_is_a_text_or_number(raw: bytes) -> None:
    assert envelope.check_id(Raw(raw)) == Raw(raw)


@pytest.mark.parametrize("raw", [b"true", b"{}", b"[]", b'"' + b"x" * 199 + b'"', b"1" * 201])
def test_an_id_is_bounded_and_flat(raw: bytes) -> None:
    with pytest.raises(CallError, match="id: expected a text or number of at most 200 bytes"):
        envelope.check_id(Raw(raw))
