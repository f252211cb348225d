from __future__ import annotations

import json

import pytest

from kqs.broker.beanstalkd.body import MIN_TTR_S, Bodies, Foreign
from kqs.job import Entry
from kqs.options import Cascade

MAX_JOB_BYTES = 65_535
KNOWN = {"id": "a", "type": "mail", "prio": 9000, "order": 7, "store": "ours"}

cascade = Cascade({}, {"mail": {"ttr": 20.0}})
bodies = Bodies("ours", lambda type_, options: cascade.resolve(type_, options).ttr)


def an_entry(options: bytes | None = None, data: bytes | None = None) -> Entry:
    return Entry(7, "a", "mail", 9000, None, options, data)


def test_a_body_shows_the_job_with_its_options_and_data() -> None:
    put = bodies.put(an_entry(b'{"retries":3}', b'{"to": "\xc3\xa9"}'), MAX_JOB_BYTES)
    assert json.loads(put.body) == KNOWN | {"options": {"retries": 3}, "data": {"to": "é"}}
    assert (put.prio, put.delay_s) == (9000, 0)


def test_what_is_not_known_or_too_much_is_left_out() -> None:
    assert json.loads(bodies.put(an_entry(), MAX_JOB_BYTES).body) == KNOWN
    assert json.loads(bodies.put(an_entry(b"{}", b'"long"'), 80).body) == KNOWN


@pytest.mark.parametrize("damaged", [b"", b"{", b"1 2", b"\xff"])
def test_damage_is_left_out(damaged: bytes) -> None:
    assert json.loads(bodies.put(an_entry(damaged, damaged), MAX_JOB_BYTES).body) == KNOWN


@pytest.mark.parametrize(
    ("options", "ttr_s"),
    [
        (None, 20),
        (b'{"ttr":77.2}', 78),
        (b'{"ttr":0.1}', MIN_TTR_S),
        (b'{"retries":1}', 20),
        (b'{"ttr":"x"}', 20),
    ],
)
def test_the_ttr_is_the_jobs_own_or_its_types(options: bytes | None, ttr_s: int) -> None:
    assert bodies.put(an_entry(options), MAX_JOB_BYTES).ttr_s == ttr_s


def test_a_body_of_ours_is_the_job_again() -> None:
    body = bodies.put(an_entry(b"{}", b"[1]"), MAX_JOB_BYTES).body
    assert bodies.read(body, "here") == Entry(7, "a", "mail", 9000, "here")


def test_a_body_of_another_store_is_told_apart() -> None:
    body = Bodies("theirs", lambda type_, options: 1.0).put(an_entry(), MAX_JOB_BYTES).body
    assert bodies.read(body, None) == Foreign("theirs", 9000)


@pytest.mark.parametrize("body", [b"", b"hello", b"[]", b'{"id":"a"}', b'{"id":1,"type":"a","prio":1,"order":1,"store":"a"}'])
def test_what_is_no_job_is_nothing(body: bytes) -> None:
    assert bodies.read(body, None) is None
