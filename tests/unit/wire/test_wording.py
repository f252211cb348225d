"""No library's message decides anything: the wire with every message of msgspec's reworded."""

from __future__ import annotations

from types import BuiltinMethodType, ModuleType
from typing import Any

import msgspec
import pytest

from kqs.errors import CallError
from kqs.options import JobFields, PlainJob
from kqs.wire import jobs, jsonrpc, qrpc, replayed, strict
from kqs.wire.call import BadLine, Call
from kqs.wire.jobs import decode_jobs, read_fields
from kqs.wire.replayed import replay_jobs
from kqs.wire.steps import finish

PLAIN = b'{"n":"insert","m":{"type":"a","id":"x"}}\n'
FULL = b'{"n":"insert","m":{"type":"a","delay":5,"at":null}}\n'


def reworded(decode: Any) -> Any:
    def decode_in_other_words(*args: Any) -> Any:
        try:
            return decode(*args)
        except msgspec.ValidationError:
            raise msgspec.ValidationError("nein") from None
        except msgspec.DecodeError:
            raise msgspec.DecodeError("kein JSON") from None

    return decode_in_other_words


@pytest.fixture(autouse=True)
def _other_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every decoder of the wire, told by its name, refuses in other words."""
    modules: list[ModuleType] = [jobs, jsonrpc, qrpc, replayed, strict]
    decoders = [
        (module, name) for module in modules for name, value in vars(module).items() if isinstance(value, BuiltinMethodType)
    ]
    assert {"_decode_job", "_decode_plain_inserts", "_decode_raw"} <= {name for _, name in decoders}
    for module, name in decoders:
        monkeypatch.setattr(module, name, reworded(getattr(module, name)))
    fields = {name: reworded(decode) for name, decode in jobs._decode_field.items()}
    monkeypatch.setattr(jobs, "_decode_field", fields)
    with pytest.raises(msgspec.ValidationError, match="nein"):
        jobs._decode_job(b"[]")


def test_inserts_with_options_take_the_fast_way() -> None:
    found = qrpc.decode_inserts(PLAIN + FULL)
    assert found is not None
    assert [type(job) for job in found.jobs] == [JobFields, JobFields]
    found = qrpc.decode_inserts(PLAIN + PLAIN)
    assert found is not None
    assert [type(job) for job in found.jobs] == [PlainJob, PlainJob]


def test_what_is_no_insert_is_left_to_the_slow_way() -> None:
    assert qrpc.decode_inserts(b'{"n":"ping"}\n' * 2) is None
    assert qrpc.decode_inserts(FULL + b'{"n":"insert","m":{"type":"a","nope":1}}\n') is None


def test_what_was_journaled_is_replayed() -> None:
    assert [job.type for job in qrpc.replay_calls(PLAIN + FULL)] == ["a", "a"]
    for text in (b'{"type":"a"}', b'{"type":"a","ttr":5}', b'[{"type":"a"},{"type":"b","keep":0,"at":"2026-01-01T00:00:00Z"}]'):
        assert replay_jobs(text) == decode_jobs(text)
    (job,) = qrpc.replay_calls(FULL.replace(b"5", b"1e308"))
    assert isinstance(job, JobFields)
    assert job.delay == 1e10


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (b'[{"type":"a"},{"type":"a","ttr":0}]', "bad_job", "job 1: ttr: expected a number of seconds from 0.1 to 2147483648"),
        (b'[{"type":"a"},{"type":"a","dealy":0}]', "bad_job", 'job 1: unknown field "dealy"; the nearest known one is "delay"'),
        (b'{"type":"a","wait":-1}', "bad_job", "wait: expected a number of seconds from 0 to 604800, got -1"),
        (b'[{"type":"a"},{}]', "bad_job", "job 1: type: missing"),
        (b'[{"type":"a"},7]', "bad_job", "job 1: expected a job object, got 7"),
        (b"7", "bad_job", "expected a job object, got 7"),
        (b'{"type":"a","at":"noon"}', "bad_job", "at: expected an RFC 3339 time"),
        (b'{"type":', "bad_json", "not JSON: kein JSON"),
    ],
)
def test_a_refusal_names_field_and_job_in_our_words(text: bytes, code: str, message: str) -> None:
    with pytest.raises(CallError) as caught:
        decode_jobs(text)
    assert (caught.value.call_code, str(caught.value)[: len(message)]) == (code, message)


def test_calls_and_fields_are_told_apart_as_ever() -> None:
    assert finish(qrpc.decoding_line(b'{"n":"ping"}')) == Call("ping")
    assert isinstance(finish(qrpc.decoding_line(b"[]")), BadLine)
    assert finish(jsonrpc.decoding_line(b"[1]"))[0].id is None
    assert list(read_fields(b'{"type":"a"}')) == ["type"]
