from typing import Any

import pytest

from kqs.errors import CallError
from kqs.options import JobFields, PlainJob, is_told, unique_key
from kqs.wire import jobs
from kqs.wire.jobs import (
    decode_job,
    decode_jobs,
    decoding,
    read_fields,
)
from kqs.wire.jobtext import JOB_FIELDS
from kqs.wire.replayed import replay_jobs
from kqs.wire.scan import SHORT_BYTES
from kqs.wire.steps import finish
from tests.support.jobs import refused


def given(text: bytes, max_jobs: int = 1000) -> jobs.Given:
    return finish(decoding(text, max_jobs))


def test_a_plain_job_keeps_its_data_byte_for_byte() -> None:
    job = decode_job(b'{"type":"mail","data": {"a" : 1.0} }')
    assert isinstance(job, PlainJob)
    assert (job.type, bytes(job.data), job.id) == ("mail", b'{"a" : 1.0}', None)


@pytest.mark.parametrize("number", [b"18446744073709551616", b"1e400", b"-0.0", b"1" * 4301])
def test_numbers_of_any_size_pass_untouched(number: bytes) -> None:
    assert bytes(decode_job(b'{"type":"a","data":' + number + b"}").data) == number


def test_a_job_with_options_is_decoded_in_full() -> None:
    job = decode_job(b'{"type":"a","prio":"high","delay":0.5,"id":"x:1"}')
    assert isinstance(job, JobFields)
    assert (job.prio, job.delay, job.id) == ("high", 0.5, "x:1")


NULLABLE = [name for name in JOB_FIELDS if name not in ("type", "data")]


@pytest.mark.parametrize("field", NULLABLE)
def test_null_means_the_default(field: str) -> None:
    assert getattr(decode_job(f'{{"type":"a","{field}":null}}'.encode()), field) is None


def test_data_may_be_absent_or_null() -> None:
    assert bytes(decode_job(b'{"type":"a"}').data) == bytes(decode_job(b'{"type":"a","data":null}').data) == b"null"


def test_an_object_is_one_job_and_an_array_many() -> None:
    assert [job.type for job in decode_jobs(b'{"type":"a"}')] == ["a"]
    assert [job.type for job in decode_jobs(b' [{"type":"a"},{"type":"b","ttr":5}]')] == ["a", "b"]
    assert decode_jobs(b"[]") == []


def test_one_job_is_no_array() -> None:
    with pytest.raises(CallError, match="expected a job object"):
        decode_job(b'[{"type":"a"}]')


def test_an_unknown_field_is_named_with_the_nearest_known_one() -> None:
    assert refused('{"type":"a","pri":1}') == 'unknown field "pri"; the nearest known one is "prio"'
    assert refused('[{"type":"a"},{"type":"a","dely":1}]') == 'job 1: unknown field "dely"; the nearest known one is "delay"'


def test_an_error_in_an_array_names_the_job() -> None:
    assert refused('[{"type":"a"},{"type":"a"},{"type":"a"},{"type":"a","ttr":0}]').startswith("job 3: ttr: expected a number")
    assert refused('[{"type":"a"},{"type":"\\t"}]').startswith("job 1: type: expected 1 to 200 bytes of printable text")
    assert refused('[{"type":"a"},7]') == "job 1: expected a job object, got 7"


@pytest.mark.parametrize("text", ["7", "null", '"a"', "true"])
def test_what_is_no_object_is_refused(text: str) -> None:
    assert refused(text) == f"expected a job object, got {text}"


def test_a_type_is_required() -> None:
    assert refused("{}").startswith("type: missing")
    assert refused('[{"type":"a"},{}]').startswith("job 1: type: missing")


WRONG: list[tuple[str, Any]] = [
    ("prio", '"sooner"'),
    ("prio", "-1"),
    ("prio", "4294967296"),
    ("prio", "true"),
    ("prio", "1.5"),
    ("delay", '"5"'),
    ("delay", "-1"),
    ("delay", "true"),
    ("delay", "1e400"),
    ("ttr", "0.01"),
    ("auto_touch", "1"),
    ("time_limit", "0"),
    ("retries", "-2"),
    ("retries", "2.5"),
    ("backoff", '"linear"'),
    ("ghosts", "{}"),
    ("expire", "0"),
    ("keep", "-2"),
    ("at", "true"),
    ("at", "[]"),
    ("at", '"tomorrow"'),
    ("at", '"2026-01-02"'),
    ("at", '"2026-01-02T03:04:05"'),
    ("at", "1e300"),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_wrong_value_is_refused_with_what_was_expected_and_what_came(field: str, value: str) -> None:
    message = refused(f'{{"type":"a","{field}":{value}}}')
    assert message.startswith(f"{field}: expected ")
    assert message.endswith(f"got {value}") or field == "at"


def test_a_long_value_is_cut_short_in_the_message() -> None:
    assert len(refused(f'{{"type":"a","delay":"{"x" * 10_000}"}}')) < 200


@pytest.mark.parametrize("wait", ["0", "5", "604800"])
def test_a_job_says_how_long_to_wait_for_its_end_but_not_in_an_array(wait: str) -> None:
    job = decode_job(b'{"type":"a","wait":%b}' % wait.encode())
    assert isinstance(job, JobFields)
    assert job.wait == float(wait)
    message = "wait: belongs to an insert of one job, not to one of an array"
    assert refused(f'[{{"type":"a"}},{{"type":"a","wait":{wait}}}]') == f"job 1: {message}"
    assert refused(f'[{{"type":"a","wait":{wait},"data":"{"x" * 200_000}"}}]') == f"job 0: {message}"
    (kept,) = replay_jobs(b'[{"type":"a","wait":%b}]' % wait.encode())
    assert kept.type == "a"


def test_null_waits_as_its_type_does() -> None:
    assert [job.type for job in decode_jobs(b'[{"type":"a","wait":null}]')] == ["a"]


@pytest.mark.parametrize(
    "text",
    [
        rb'{"type":"a","type":"b"}',
        rb'{"type":"a","id":"a","id":"b"}',
        rb'{"type":"a","id":"a","\u0069d":null}',
        rb'{"t\u0079pe":"a","type":"b"}',
    ],
)
def test_control_fields_stand_once(text: bytes) -> None:
    assert refused(text).endswith("stands twice")
    assert refused(b'[{"type":"x"},' + text + b"]").startswith("job 1: ")


@pytest.mark.parametrize(
    "text",
    [
        b'{"type":"id","id":"type"}',
        b'{"type":"a","data":{"type":1,"id":2}}',
        b'{"type":"a","data":{"a":1,"a":2}}',
        b'{"type":"a","id":null}',
        rb'{"type":"a","data":"\u0069d"}',
    ],
)
def test_the_names_of_control_fields_may_stand_elsewhere(text: bytes) -> None:
    assert len(decode_jobs(b"[" + text + b"," + text + b"]")) == 2


def test_a_job_of_more_than_64_levels_is_refused() -> None:
    def job(levels: int) -> bytes:
        return b'{"type":"a","data":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"

    assert decode_job(job(64)).type == "a"
    assert "64 levels" in refused(job(65), "bad_json")
    assert "64 levels" in refused(b"[" * 1_000_000, "bad_json")
    assert "64 levels" in refused(job(100_000), "bad_json")


@pytest.mark.parametrize(
    "data",
    [
        b"NaN",
        b"Infinity",
        b'"\xff"',
        b'"\xc0\xaf"',
        b'"\xed\xa0\x80"',
        rb'"\ud800"',
        rb'"\ud800abcdef"',
        rb'"\udc00"',
        b"[1,]",
        b'"\t"',
        b"01",
    ],
)
def test_what_is_no_json_is_refused(data: bytes) -> None:
    refused(b'{"type":"a","data":' + data + b"}", "bad_json")
    refused(b'{"ttr":1,"type":"a","data":' + data + b"}", "bad_json")


@pytest.mark.parametrize(
    "text",
    [
        "﻿{}".encode(),
        '{"type":"a"}'.encode("utf-16"),
        '{"type":"a"}'.encode("utf-32"),
        b'{"type":"\xff"}',
        b'{"type":"a","\xff":1}',
        b"",
    ],
)
def test_other_encodings_are_refused(text: bytes) -> None:
    refused(text, "bad_json")


def test_a_wrong_field_before_the_end_of_json_is_still_no_json() -> None:
    refused(b'{"type":"a","ttr":"x",', "bad_json")
    refused(b'[{"type":"a","ttr":"x"},', "bad_json")
    refused(b'{"colour":1,', "bad_json")
    refused(b"5x", "bad_json")


def test_text_outside_data_is_checked_too() -> None:
    refused(b'{"colour":"\xff"}', "bad_json")


def test_nul_is_allowed_in_data() -> None:
    assert bytes(decode_job(rb'{"type":"a","data":"\u0000"}').data) == rb'"\u0000"'


def test_fields_are_read_as_they_stand() -> None:
    fields = read_fields(b'{"type":"a", "data": {"id":1e400,"id":[ ]}, "prio":"?"}')
    assert {name: bytes(value) for name, value in fields.items()} == {
        "type": b'"a"',
        "data": b'{"id":1e400,"id":[ ]}',
        "prio": b'"?"',
    }


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (b"foo", "bad_json", "not JSON: invalid character"),
        (b'{"\xff":1}', "bad_json", "invalid UTF-8"),
        (b"[" * 100_000, "bad_json", "levels"),
        (b"[1]\n", "bad_job", r"expected a job object, got \[1\]\Z"),
        (b'{"type":"a","type":"b"}', "bad_job", "type: stands twice"),
        (rb'{"id":"a","\u0069d":"b"}', "bad_job", "id: stands twice"),
    ],
)
def test_what_has_no_fields_or_one_twice_is_refused(text: bytes, code: str, message: str) -> None:
    with pytest.raises(CallError, match=message) as caught:
        read_fields(text)
    assert caught.value.call_code == code


PAD = b'"' + b"x" * SHORT_BYTES + b'"'


def test_an_argument_is_one_job_or_an_array() -> None:
    found = given(b'{"type":"a"}')
    assert (found.payload, [job.type for job in found.jobs], found.is_array) == (b'{"type":"a"}', ["a"], False)
    found = given(b'[{"type":"a"},{"type":"b"}]')
    assert ([job.type for job in found.jobs], found.is_array) == (["a", "b"], True)
    assert given(b"[]").jobs == []


def test_a_long_array_is_decoded_as_it_was_sent() -> None:
    text = b"[" + b", ".join(b'{"type":"t%d","data":[{"a":[1,2]},"],\\"["]}' % number for number in range(9000)) + b" ]"
    found = given(text, 9000)
    assert found.payload == text
    assert [job.type for job in found.jobs] == [f"t{number}" for number in range(9000)]
    assert {bytes(job.data) for job in found.jobs} == {b'[{"a":[1,2]},"],\\"["]'}
    assert replay_jobs(text) == found.jobs


def test_a_long_job_keeps_its_data_byte_for_byte() -> None:
    found = given(b'{"type":"a", "data" : ' + PAD + b' , "ttr":5}')
    (job,) = found.jobs
    assert isinstance(job, JobFields)
    assert (bytes(job.data), job.ttr) == (PAD, 5.0)
    assert isinstance(given(b'{"data":' + PAD + b',"type":"a"}').jobs[0], PlainJob)


def test_auth_is_taken_out_of_long_arguments_too() -> None:
    job = b'{"auth":{"user":"u"},"type":"a","data":%b}' % PAD
    assert given(job).payload == job.replace(b'"auth":{"user":"u"},', b"")
    array = b"[%b, %b]" % (job, b'{"type":"b"}')
    assert given(array).payload == array.replace(b'"auth":{"user":"u"},', b"")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'[{"type":"a"},{"type":"a","data":%b},{"type":"a","ttr":0}]', "job 2: ttr: expected a number of seconds from 0.1"),
        (b'[{"type":"a","data":%b},7]', r"job 1: expected a job object, got 7\Z"),
        (b'[{"type":"a"},{"auth":1,"data":%b,"auth":1}]', r"job 1: auth: stands twice\Z"),
        (b'{"type":"a","data":%b,"type":"b"}', r"type: stands twice\Z"),
        (b'{"id":"a","type":"a","data":%b,"\\u0069d":"b"}', r"id: stands twice\Z"),
        (b'{"data":%b}', "type: missing"),
        (b'{"data":%b,"type":"\t"}'.replace(b"\t", b"\\t"), "type: expected 1 to 200 bytes of printable text"),
        (b'{"type":"a","data":%b,"dealy":1}', 'unknown field "dealy"; the nearest known one is "delay"'),
        (b'{"type":"a","data":%b,"delay":1,"at":1}', "delay and at: expected one of them, got both"),
        (b'{"type":%b}', "type: expected 1 to 200 bytes"),
        (b'{"type":"a","data":1,%b:1}', 'unknown field "x{59}…'),
        (b'{"type":"a","ttr":%b}', "ttr: expected a number of seconds"),
    ],
)
def test_long_arguments_are_refused_like_short_ones(text: bytes, message: str) -> None:
    with pytest.raises(CallError, match=message) as caught:
        given(text % PAD)
    assert caught.value.call_code == "bad_job"


def test_an_array_has_a_most() -> None:
    text = b"[" + b'{"type":"a"},' * 99 + b'{"type":"a"}]'
    assert len(given(text, 100).jobs) == 100
    with pytest.raises(CallError, match="expected at most 99 jobs in one insert") as caught:
        given(text, 99)
    assert caught.value.call_code == "too_large"


@pytest.mark.parametrize("field", [name for name in JOB_FIELDS if name not in ("data", "after")])
def test_a_wrong_value_of_any_field_is_refused_by_its_name(field: str) -> None:
    with pytest.raises(CallError) as caught:
        decode_jobs(f'[{{"type":"a"}},{{"type":"a","{field}":[]}}]'.encode().replace(b'"type":"a","type"', b'"type"'))
    assert str(caught.value).startswith(f"job 1: {field}: ")


@pytest.mark.parametrize("auth", [b"", b',"auth":1'])
@pytest.mark.parametrize("is_array", [False, True])
def test_a_long_job_that_repeats_an_option_without_end_is_refused_early(auth: bytes, is_array: bool) -> None:
    job = b'{"type":"x"' + auth + b',"ttr":1' * SHORT_BYTES + b"}"
    decoding_steps = decoding(b"[%b]" % job if is_array else job, 1000)
    with pytest.raises(CallError, match=f"{'job 0: ' * is_array}expected at most 1000 fields") as caught:
        finish(decoding_steps)
    assert caught.value.call_code == "bad_job"


@pytest.mark.parametrize(
    "text", [b'{"type":"t","unique":"k"}', b'[{"type":"t","unique":"k","on_conflict":"refuse","answer":"full"}]']
)
def test_unique_key_is_kept_and_read_again(text: bytes) -> None:
    for (job,) in (decode_jobs(text), replay_jobs(text)):
        assert isinstance(job, JobFields)
        assert job.unique == "k"
        assert is_told(job)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ('"unique":""', "unique: expected 1 to 200 bytes of printable text"),
        ('"unique":"' + "é" * 101 + '"', "unique: expected 1 to 200 bytes of printable text"),
        ('"unique":"a\\u0007b"', "unique: expected 1 to 200 bytes of printable text"),
        ('"on_conflict":"join"', "on_conflict: expected a unique key beside it, got none"),
        ('"unique":null,"on_conflict":"refuse"', "on_conflict: expected a unique key beside it, got none"),
        ('"unique":"k","on_conflict":"other"', 'on_conflict: expected "join" or "refuse"'),
        ('"answer":"short"', 'answer: expected "full"'),
    ],
)
def test_key_or_answer_that_cannot_be_is_refused(fields: str, complaint: str) -> None:
    for text in (f'{{"type":"t",{fields}}}', f'[{{"type":"t",{fields}}}]'):
        with pytest.raises(CallError, match=complaint) as caught:
            decode_jobs(text.encode())
        assert caught.value.call_code == "bad_job"


def test_longest_key_is_taken() -> None:
    (job,) = decode_jobs(b'{"type":"t","unique":"%b"}' % (b"k" * 200))
    assert unique_key(job) == "k" * 200
    assert unique_key(decode_jobs(b'{"type":"t"}')[0]) is None


def test_a_field_that_is_too_long_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_FIELD_BYTES", 10)
    with pytest.raises(CallError, match="unique: expected"):
        jobs._check_field("unique", b'"' + b"k" * 20 + b'"', "")
