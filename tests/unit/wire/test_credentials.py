from __future__ import annotations

import pytest

from kqs.errors import CallError
from kqs.wire.credentials import taking_auth_out
from kqs.wire.steps import finish


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (b'{"auth":{"user":"u"},"type":"a"}', b'{"type":"a"}'),
        (b'{"type":"a" , "auth" : {"user":"}"} }', b'{"type":"a" }'),
        (b'{"type":"a","auth":1,"data":{"auth":2}}', b'{"type":"a","data":{"auth":2}}'),
        (b'{"auth":1}', b"{}"),
        (rb'{"\u0061uth":1,"type":"a"}', b'{"type":"a"}'),
        (b'[{"auth":1},{"type":"a","auth":2}, {"type":"b"}]', b'[{},{"type":"a"}, {"type":"b"}]'),
        (b'{"type":"auth","data":"\\"auth\\":"}', b'{"type":"auth","data":"\\"auth\\":"}'),
        (b'"auth"', b'"auth"'),
        (b'{"type":"auth"}', b'{"type":"auth"}'),
        (b'{"data":{"auth":1}}', b'{"data":{"auth":1}}'),
        (b'{"type":"a","data":"\\u0061","auth" : 1 }', b'{"type":"a","data":"\\u0061"}'),
        (b'[1, {"auth":1,"type":"a"}]', b'[1, {"type":"a"}]'),
        (b'{"type":"a"}', b'{"type":"a"}'),
    ],
)
def test_auth_is_taken_out_and_nothing_else(text: bytes, left: bytes) -> None:
    assert finish(taking_auth_out(text)) == left


def test_auth_of_many_jobs_is_taken_out() -> None:
    one = b'{"auth":1,"type":"a"}'
    assert finish(taking_auth_out(b"[%b]" % b",".join([one] * 600))) == b"[%b]" % b",".join([b'{"type":"a"}'] * 600)


def test_auth_twice_is_refused() -> None:
    with pytest.raises(CallError, match="job 1: auth: stands twice"):
        finish(taking_auth_out(b'[{"auth":1},{"auth":1,"auth":2}]'))
