"""What remote workers say of their runs: each member of a list by itself, and why one does not fit."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from kqs.errors import ERROR_CODES, CallError
from kqs.executor.outcomes import MAX_RESULT_BYTES
from kqs.job import Returned
from kqs.outcome import Again, Failed, Ok, Outcome
from kqs.rpc import reports
from kqs.rpc.reports import FINISHES, RELEASES, TOUCHES, Finish, Reader, Release, Touch, end_of, outcome_of, progress_in
from kqs.verdicts import MAX_DELAY_S
from kqs.wire.call import Call
from kqs.wire.scan import SHORT_BYTES
from kqs.wire.steps import finish

READERS: dict[str, Reader[Any]] = {"touch": TOUCHES, "release": RELEASES, "finish": FINISHES}


def read(name: str, text: str | bytes) -> list[Any]:
    """The members of a call; a call that is refused as a whole raises."""
    text = text.encode() if isinstance(text, str) else text
    members = finish(READERS[name].members(Call(name, Raw(text))))
    assert members.is_list is text.startswith(b"[")
    return [finish(READERS[name].reading(one)) for one in members.texts]


def fault(name: str, text: str) -> str:
    """Why one member does not fit: the same alone and in a list."""
    (alone,), (_, listed) = read(name, text), read(name, f'[{{"run":"x","report":"ok"}},{text}]')
    assert isinstance(alone, CallError), alone
    assert str(alone) == str(listed)
    assert alone.call_code in ("bad_call", "too_large")
    return str(alone)


def test_one_run_or_a_list_of_them_is_read() -> None:
    assert read("touch", '{"run":"x"}') == [Touch("x")]
    assert read("touch", '{"run":"x","progress":[1]}') == [Touch("x", Raw(b"[1]"))]
    assert read("release", '[{"run":"x"},{"run":"y","delay":1.5}]') == [Release("x"), Release("y", 1.5)]
    assert [end_of(one) for one in read("release", '[{"run":"x","prio":7,"delay":2},{"run":"x","prio":"low"}]')] == [
        Returned(2.0, 7),
        Returned(0.0, 11_000),
    ]
    assert [end_of(one) for one in read("release", '{"run":"x","begun":false,"delay":null,"prio":null}')] == [None]
    assert read("finish", "[]") == []
    assert read("finish", '{"run":"é","report":"fail","reason":"no","delay":0,"final":false}') == [
        Finish("é", "fail", reason="no", delay=0, final=False)
    ]
    in_result = b'{"run":{"run":1,"run":2},"report":"x"}'
    assert read("finish", b'{"run":"x","report":"ok","result":' + in_result + b"}") == [Finish("x", "ok", Raw(in_result))]


@pytest.mark.parametrize(
    ("name", "text", "begin"),
    [
        ("touch", "{}", "run: expected the token of a run, got nothing"),
        ("touch", '{"run":7}', "run: expected the token of a run, got 7"),
        ("touch", '{"run":null}', "run: expected the token of a run, got null"),
        ("touch", '{"run":"x","delay":1}', 'unknown field "delay"'),
        ("touch", '{"run":"x","progres":1}', 'unknown field "progres"; the nearest known one is "progress"'),
        ("touch", '{"progress":1}', "run: expected the token of a run, got nothing"),
        ("touch", '{"run":"x","progress":"%s"}' % ("x" * 16383), "progress: expected at most 16384 bytes, got 16385"),
        ("touch", '{"run":"x","progress":%s}' % ("[" * 61 + "]" * 61), "progress: expected at most 60 levels of arrays"),
        ("touch", '{"run":"x","run":"y"}', "run: stands twice"),
        ("touch", '{"run":"x","r\\u0075n":"x"}', "run: stands twice"),
        ("touch", '{"run":"x","progress":1,"progress":2}', "progress: stands twice"),
        ("release", '{"run":"x","delay":null,"delay":1}', "delay: stands twice"),
        ("finish", '{"run":"x","report":"fail","report":"ok"}', "report: stands twice"),
        ("finish", '{"run":"x","report":"ok","result":{"run":1},"result":{"run":2}}', "result: stands twice"),
        ("finish", '{"run" :"x" , "report" :"ok","run" :"y"}', "run: stands twice"),
        ("touch", '{"run":"x","rum":"y"}', 'unknown field "rum"; the nearest known one is "run"'),
        ("release", '{"run":"x","delay":-1}', f"delay: expected seconds from 0 to {MAX_DELAY_S}, got -1"),
        ("release", '{"run":"x","delay":"1"}', "delay: expected seconds"),
        ("release", '{"run":"x","delay":1e400}', "delay: expected seconds"),
        ("release", f'{{"run":"x","delay":{MAX_DELAY_S + 1}}}', "delay: expected seconds"),
        ("release", '{"run":"x","delay":-1e-9}', "delay: expected seconds"),
        ("release", '{"run":"x","delay":true}', "delay: expected seconds"),
        ("release", '{"run":"x","prio":-1}', "prio: expected an integer from 0 to 4294967295 or \"bulk\""),
        ("release", '{"run":"x","prio":4294967296}', "prio: expected an integer"),
        ("release", '{"run":"x","prio":1.5}', "prio: expected an integer"),
        ("release", '{"run":"x","prio":"Low"}', "prio: expected an integer"),
        ("release", '{"run":"x","prio":true}', "prio: expected an integer"),
        ("release", '{"run":"x","prio":1e400}', "prio: expected an integer"),
        ("release", '{"run":"x","prio":[]}', "prio: expected an integer"),
        ("release", '{"run":"x","begun":null}', "begun: expected true or false, got null"),
        ("release", '{"run":"x","begun":false,"prio":1}', "begun: a run that never began leaves its job as it was"),
        ("release", '{"run":"x","begun":false,"delay":0}', "begun: a run that never began leaves its job as it was"),
        ("finish", '{"report":"ok"}', "run: expected the token of a run, got nothing"),
        ("finish", '{"run":"x"}', 'report: expected "ok", "again" or "fail", got nothing'),
        ("finish", '{"run":"x","report":"OK"}', 'report: expected "ok", "again" or "fail", got "OK"'),
        ("finish", '{"run":"x","report":null}', "report: expected"),
        ("finish", '{"run":"x","report":"ok","delay":1}', 'delay: does not belong to a report of "ok"'),
        ("finish", '{"run":"x","report":"ok","final":false}', 'final: does not belong to a report of "ok"'),
        ("finish", '{"run":"x","report":"ok","reason":""}', 'reason: does not belong to a report of "ok"'),
        ("finish", '{"run":"x","report":"again","result":1}', 'result: does not belong to a report of "again"'),
        ("finish", '{"run":"x","report":"again","reason":"r","final":true}', "final: does not belong"),
        ("finish", '{"run":"x","report":"fail","result":[]}', 'result: does not belong to a report of "fail"'),
        ("finish", '{"run":"x","report":"fail","reason":7}', "reason: expected a text, got 7"),
        ("finish", '{"run":"x","report":"fail","final":1}', "final: expected true or false, got 1"),
        ("finish", '{"run":"x","report":"fail","delay":[]}', "delay: expected seconds"),
        ("finish", '{"run":1,"run":"x","report":"ok"}', "run: stands twice"),
        ("finish", '{"run":"x","report":"no","report":"ok"}', "report: stands twice"),
        ("finish", "7", "expected an object, got 7"),
        ("finish", "null", "expected an object, got null"),
        ("finish", '"x"', 'expected an object, got "x"'),
        ("finish", "[]", "expected an object, got []"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(name: str, text: str, begin: str) -> None:
    if not text.startswith("{"):
        (found,) = read(name, f"[{text}]")
        assert str(found).startswith(begin)
        return
    assert fault(name, text).startswith(begin)


@pytest.mark.parametrize("text", ["null", "7", '"x"', "true"])
@pytest.mark.parametrize("name", READERS)
def test_a_call_takes_an_object_or_a_list(name: str, text: str) -> None:
    with pytest.raises(CallError, match=f"{name} takes an object, or a list of them, got"):
        read(name, text)


_TEXTS = st.text(st.sampled_from(["x", ":", ",", '"', "\\", "}", "é"]), max_size=4).map(
    lambda text: msgspec.json.encode(text).decode()
)
_FIELDS = st.tuples(
    st.sampled_from(["run", "report", "result", "progress", "reason", "delay", "begun", r"\u0072un", "nope"]),
    st.one_of(st.sampled_from(['"ok"', '"again"', '"fail"', "null", "1", "false", '{"run":"x"}']), _TEXTS),
)
_PLAIN = st.one_of(st.just('{"run":"x","report":"ok"}'), st.just('{"report":"fail","run":"y"}'), st.just('{"run":"x"}'))
_MEMBERS = st.lists(_FIELDS, max_size=4).map(lambda fields: "{" + ",".join(f'"{name}":{value}' for name, value in fields) + "}")


@given(st.sampled_from(list(READERS)), st.lists(st.one_of(_PLAIN, _MEMBERS), min_size=1, max_size=4))
def test_each_member_of_a_list_is_read_as_if_it_were_alone(name: str, members: list[str]) -> None:
    listed = read(name, f"[{','.join(members)}]")
    alone = [one for member in members for one in read(name, member)]
    assert [str(one) if isinstance(one, CallError) else one for one in listed] == [
        str(one) if isinstance(one, CallError) else one for one in alone
    ]


@pytest.mark.parametrize("name", READERS)
def test_a_list_of_plain_members_is_decoded_as_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(READERS[name], "_read", None)
    report = ',"report":"ok"' if name == "finish" else ""
    assert [one.run for one in read(name, f'[{{"run":"x"{report}}},{{"run":"y"{report}}}]')] == ["x", "y"]


def test_a_call_takes_no_binary_data() -> None:
    with pytest.raises(CallError, match="touch takes no binary data"):
        finish(TOUCHES.members(Call("touch", blob=b"x")))


def test_a_list_has_at_most_so_many_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MAX_ROOM", 3)
    assert len(read("touch", '[{"run":"x"},1,{}]')) == 3
    with pytest.raises(CallError) as refusal:
        read("touch", "[1,2,3,4]")
    assert refusal.value.call_code == "too_large"


def test_a_list_that_is_far_too_long_is_not_decoded_to_its_end() -> None:
    text = b"[%b1]" % (b"1," * 1_000_000)
    with pytest.raises(CallError, match="finish takes a list of at most 10000, got more"):
        next(FINISHES.members(Call("finish", Raw(text))))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ('"delay":1,' * SHORT_BYTES, "delay: stands twice"),
        ('"report":"ok","nope":1,' * SHORT_BYTES, 'unknown field "nope"'),
        (f'"delay":[{"1," * SHORT_BYTES}1],', "delay: expected seconds from 0 to"),
        (f'"run":"{"x" * SHORT_BYTES}",', "run: expected the token of a run"),
    ],
)
def test_of_a_long_report_only_what_may_be_long_is_decoded(fields: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FINISHES, "_read", None)
    (refused,) = read("finish", f'{{{fields}"result":1}}')
    assert str(refused).startswith(told)
    assert len(str(refused)) < 200


def test_a_refusal_holds_nothing_of_a_long_report() -> None:
    assert all(one.__traceback__ is None for one in read("finish", '[1,{},{"run":"x","report":"ok","delay":1}]'))


def test_a_long_result_is_too_large_and_one_byte_less_is_not() -> None:
    most = b'"' + b"x" * (MAX_RESULT_BYTES - 2) + b'"'
    (one,) = read("finish", b'{"run":"x","report":"ok","result":%b}' % most)
    assert outcome_of(one) == Ok(most)
    (refused,) = read("finish", b'{"run":"x","report":"ok","result":[%b]}' % most)
    assert (refused.call_code, len(str(refused)) < 100) == ("too_large", True)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ('"report":"ok"', Ok(None)),
        ('"report":"ok","result":null', Ok(None)),
        ('"report":"ok","result":{"a" : 1e400}', Ok(b'{"a" : 1e400}')),
        ('"report":"ok","result":false,"delay":null,"reason":null,"final":null', Ok(b"false")),
        ('"report":"again"', Again(None)),
        ('"report":"again","delay":0', Again(0)),
        ('"report":"again","delay":1.5,"result":null', Again(1.5)),
        ('"report":"fail"', Failed("the worker gave no reason")),
        ('"report":"fail","reason":""', Failed("the worker gave no reason")),
        ('"report":"fail","reason":"no","final":true', Failed("no", final=True)),
        ('"report":"fail","delay":10000000000', Failed("the worker gave no reason", delay_s=1e10)),
    ],
)
def test_a_report_means_an_outcome(text: str, outcome: Outcome) -> None:
    (one,) = read("finish", f'{{"run":"x",{text}}}')
    assert outcome_of(one) == outcome


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from(["run", "report", "result", "reason", "delay", "final", "runs", ""])
NEAR = st.lists(st.tuples(NAMES, JSON | st.sampled_from(["ok", "again", "fail", "x", 1.5, True])), max_size=6)


def an_object(fields: list[tuple[str, object]]) -> bytes:
    """An object, in which a field may stand twice."""
    return b"{" + b",".join(msgspec.json.encode(name) + b":" + msgspec.json.encode(value) for name, value in fields) + b"}"


@given(name=st.sampled_from(list(READERS)), text=JSON.map(msgspec.json.encode) | NEAR.map(an_object))
def test_any_json_is_read_or_refused_with_a_known_code(name: str, text: bytes) -> None:
    for sent in (text, b"[" + text + b"]"):
        try:
            values = read(name, sent)
        except CallError as error:
            values = [error]
        for value in values:
            if isinstance(value, CallError):
                assert value.call_code in ERROR_CODES
                assert len(str(value)) < 1000
            elif isinstance(value, Finish):
                outcome_of(value)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('{"run":"x"}', None),
        ('{"run":"x","progress":null}', b""),
        ('{"run":"x","progress": null }', b""),
        ('{"run":"x","progress":"null"}', b'"null"'),
        ('{"run":"x","progress":0}', b"0"),
        ('{"run":"x","progress": {"a": 1e400} }', b'{"a": 1e400}'),
        ('{"run":"x","progress":%s}' % ("[" * 60 + "]" * 60), b"[" * 60 + b"]" * 60),
    ],
)
def test_progress_is_kept_as_it_was_sent(text: str, kept: bytes | None) -> None:
    (one,) = read("touch", text)
    assert (one.progress is msgspec.UNSET) is (kept is None)
    assert progress_in(one) == (kept or b"")
