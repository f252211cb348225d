"""What was accepted once is accepted still, as far as it can be."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import UNSET, Raw

from kqs.errors import CallError
from kqs.options import JobFields
from kqs.wire import replayed
from kqs.wire.jobs import decode_job, decode_jobs
from kqs.wire.replayed import kept_at_seconds, replay_job, replay_jobs


def test_replay_gives_the_same_jobs() -> None:
    for text in (b'{"type":"a","data":1}', b'[{"type":"a"},{"type":"b","at":5}]', b'{"type":"a","keep":0}'):
        assert replay_jobs(text) == decode_jobs(text)


OLD = b'{"type":"a\\u202e","id":"x","data":[1],"time_limit":1e308,"expire":1e308,"keep":1e300,"ttr":5,"colour":1,"at":1e300}'


def test_what_wider_bounds_accepted_is_replayed_within_ours() -> None:
    (job,) = replay_jobs(OLD)
    assert isinstance(job, JobFields)
    assert (job.type, job.id, bytes(job.data)) == ("a\u202e", "x", b"[1]")
    assert (job.time_limit, job.expire, job.keep, job.ttr) == (1e10, 1e10, 1e10, 5)
    assert replay_jobs(b"[" + OLD + b',{"type":"b"}]') == [job, JobFields(type="b")]


def test_an_old_time_that_is_refused_now_is_past() -> None:
    assert kept_at_seconds(1e300) == kept_at_seconds("at noon") == 0.0
    assert kept_at_seconds(5.5) == 5.5


def test_copies_are_replayed_as_far_as_they_are_known() -> None:
    (job,) = replay_jobs(b'{"type":"t","copies":{"a":"x"},"newer":1}')
    assert (isinstance(job, JobFields) and job.copies) == {"a": "x"}
    (job,) = replay_jobs(b'{"type":"t","copies":["a"],"newer":1}')
    assert isinstance(job, JobFields)
    assert job.copies is None


def test_unique_key_is_read_of_what_a_later_version_accepted() -> None:
    (job,) = replay_jobs(b'{"type":"t","unique":"k","on_conflict":"replace","answer":7,"newer":1}')
    assert isinstance(job, JobFields)
    assert (job.unique, job.on_conflict, job.answer) == ("k", None, None)
    (job,) = replay_jobs(b'{"type":"t","unique":{"a":1},"newer":1}')
    assert isinstance(job, JobFields)
    assert job.unique is None


def test_the_instant_of_a_tick_is_no_clients_to_say_and_outlives_a_replay() -> None:
    for text in ('{"type":"a","tick":5.0}', '{"type":"a","tick":null}', '{"type":"a","tick":"x"}'):
        with pytest.raises(CallError, match=r'^unknown field "tick"$'):
            decode_job(text.encode())
    for more in ("", ',"of a later version":1'):
        (job,) = replay_jobs(f'{{"type":"a","id":"x:y","tick":5.5{more}}}'.encode())
        assert isinstance(job, JobFields)
        assert job.tick == 5.5
    (job,) = replay_jobs(b'{"type":"a","tick":"no","x":1}')
    assert isinstance(job, JobFields)
    assert job.tick is UNSET


def test_who_a_job_waits_for_is_left_out_where_it_is_more_than_can_be() -> None:
    (job,) = replay_jobs(b'{"type":"t","after":["a"],"batch":"b","members":2,"newer":1}')
    assert isinstance(job, JobFields)
    assert (job.after, job.batch, job.members) == (["a"], "b", 2)
    (job,) = replay_jobs(b'{"type":"t","after":{"a":1},"batch":7,"members":"all","newer":1}')
    assert isinstance(job, JobFields)
    assert (job.after, job.batch, job.members) == (None, None, UNSET)


@pytest.mark.parametrize("text", [b'{"id":"a","newer":1}', b'{"type":7}', b"[]", b"7"])
def test_what_has_no_type_was_never_accepted(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        replay_job(Raw(text))


def test_every_field_is_read_but_what_says_how_the_insert_is_answered() -> None:
    assert set(JobFields.__struct_fields__) - set(replayed._READERS) == {"on_conflict", "answer"}
