"""The wire's codecs against each other, against json, and against whatever bytes may come."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeVar
from unittest.mock import patch

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from kqs.errors import CallError
from kqs.options import Job, JobFields
from kqs.wire import jsonrpc, qrpc, strict
from kqs.wire.call import BadLine, Call, Dialect
from kqs.wire.credentials import taking_auth_out
from kqs.wire.dialect import decode_any
from kqs.wire.jobs import decode_job, decode_jobs, decoding
from kqs.wire.lines import TOO_LONG, LineBuffer
from kqs.wire.replayed import replay_jobs
from kqs.wire.scan import SHORT_BYTES
from kqs.wire.steps import finish

T = TypeVar("T")

LIMIT = 8

text = st.text(st.characters(codec="utf-8"), max_size=8)
control_names = st.sampled_from(["id", "type", "n", "m", "v", "b", "auth", "data", "jsonrpc", "insert", "2.0"])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text | control_names
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text | control_names, inner, max_size=4)
)
call_ids = st.integers() | text


@st.composite
def as_json(draw: st.DrawFn, value: Any) -> bytes:
    """One of the ways to write `value`: with or without spaces, with or without escapes."""
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    return json.dumps(value, ensure_ascii=draw(st.booleans()), separators=separators).encode()


json_texts = values.flatmap(as_json)
options = st.fixed_dictionaries(
    {},
    optional={
        "id": st.from_regex(r"[A-Za-z0-9._:-]{1,9}", fullmatch=True) | st.none() | text,
        "prio": st.sampled_from(["urgent", "bulk", "soon"]) | st.integers(-1, 2**32),
        "delay": st.floats(0, 10) | text,
        "at": st.floats(0, 10) | st.just("2026-01-02T03:04:05Z") | text,
        "auth": values,
        "wait": st.none() | st.integers(0, 9),
        "colour": scalars,
    },
)
job_values = st.builds(lambda type_, data, rest: {"type": type_, "data": data, **rest}, text | control_names, values, options)
mutations = st.sampled_from(
    [(b'"data"', b'"type"'), (b'"prio"', b'"id"'), (b'"n"', b'"m"'), (b"}", b"}}"), (b"i", b"\\u0069"), (b",", b",\n")]
)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """A line that is, or nearly is, an insert or another call."""
    argument = draw(job_values | values)
    envelope = {"v": 1, "id": draw(call_ids), "n": draw(st.sampled_from(["insert", "insert", "echo"])), "m": argument}
    for key in draw(st.sets(st.sampled_from(["v", "id", "n", "m"]), max_size=1)):
        del envelope[key]
    line = draw(as_json(envelope))
    if draw(st.booleans()):
        line = line.replace(*draw(mutations), 1)
    return line + draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\n"]))


chunks = st.lists(lines(), min_size=1, max_size=3).map(b"".join)


def flat(events: list[Any]) -> list[Any]:
    """Events with chunks cut into their lines."""
    return [line for event in events for line in ([event] if event is TOO_LONG else event.splitlines(keepends=True))]


@given(st.lists(st.sampled_from([b"", b"a", b"\r", b"\n", b"ab\n", b"x" * 7, b"x" * 8, b"x" * 9])), st.data())
def test_every_split_of_a_transcript_gives_the_same_lines(pieces: list[bytes], data: st.DataObject) -> None:
    transcript = b"".join(pieces)
    cuts = sorted({0, len(transcript), *data.draw(st.lists(st.integers(0, len(transcript))))})
    whole, split = LineBuffer(LIMIT), LineBuffer(LIMIT)
    wanted = flat(whole.receive_data(transcript))
    assert flat([event for start, end in pairwise(cuts) for event in split.receive_data(transcript[start:end])]) == wanted
    assert split.buffered_bytes == whole.buffered_bytes <= LIMIT + 1


@settings(max_examples=20)
@given(chunks)
def test_every_two_way_split_of_calls_gives_the_same_calls(transcript: bytes) -> None:
    def decoded(*pieces: bytes) -> list[Call | BadLine]:
        buffer = LineBuffer(10**6)
        return [call for piece in pieces for line in flat(buffer.receive_data(piece)) for call in decode_any(line)]

    wanted = decoded(transcript)
    assert all(decoded(transcript[:cut], transcript[cut:]) == wanted for cut in range(len(transcript)))


@given(st.binary() | chunks)
@example(b"[" * 100_000)
def test_any_bytes_give_calls_or_bad_lines(junk: bytes) -> None:
    assert isinstance(finish(qrpc.decoding_line(junk)), Call | BadLine)
    assert finish(jsonrpc.decoding_line(junk))
    for dialect in Dialect:
        assert all(isinstance(found, Call | BadLine) for found in decode_any(junk, dialect))
    qrpc.decode_inserts(junk)
    qrpc.decode_calls(junk)


@given(st.binary() | json_texts | job_values.flatmap(as_json))
def test_any_bytes_give_jobs_or_an_error_for_the_peer(junk: bytes) -> None:
    for decode in (decode_job, decode_jobs):
        refused = refusal(decode, junk)
        assert refused is None or refused.call_code in ("bad_json", "bad_job")
        assert len(str(refused)) < 500


def refusal(decode: Callable[[bytes], object], text: bytes) -> CallError | None:
    try:
        decode(text)
    except CallError as refused:
        return refused
    return None


WAIT = JobFields.__struct_fields__.index("wait")


def fields(job: Job) -> list[Any]:
    """All a job says, whichever struct says it."""
    said = [getattr(job, name, None) for name in JobFields.__struct_fields__]
    return [None if one is UNSET else one for one in said]


def slowly(chunk: bytes) -> list[tuple[Job, Raw | None]] | None:
    """What the exact way makes of a chunk of inserts of one job each; None when a line is something else."""
    found = []
    for line in chunk.split(b"\n"):
        call = finish(qrpc.decoding_line(line)) if line.strip() else None
        if isinstance(call, BadLine) or (call is not None and call.name != "insert"):
            return None
        if call is not None:
            try:
                found.append((decode_job(call.arg), call.id))
            except CallError:
                return None
    return found


@given(chunks)
def test_the_fast_way_of_inserts_agrees_with_the_exact_one(chunk: bytes) -> None:
    fast = qrpc.decode_inserts(chunk)
    if fast is not None:
        exact = slowly(chunk)
        assert exact is not None
        told = [fields(job) for job, _ in exact]
        assert list(map(fields, qrpc.replay_calls(chunk))) == told
        if fast.wait_s is not None:
            (waiting,) = told
            assert waiting[WAIT] == fast.wait_s
            waiting[WAIT] = None
        assert list(map(fields, fast.jobs)) == told
        assert fast.ids == [call_id for _, call_id in exact]


@given(
    st.lists(
        st.builds(
            lambda id_, data: {"v": 1, "id": id_, "n": "insert", "m": {"type": "a", "data": data}}, st.integers(), scalars
        ),
        min_size=1,
    )
)
def test_plain_inserts_take_the_fast_way(calls: list[dict[str, Any]]) -> None:
    chunk = b"".join(json.dumps(call, ensure_ascii=False).encode() + b"\n" for call in calls)
    found = qrpc.decode_inserts(chunk)
    assert found is not None
    assert [json.loads(bytes(job.data)) for job in found.jobs] == [call["m"]["data"] for call in calls]


@given(chunks)
def test_the_fast_way_of_calls_agrees_with_the_exact_one(chunk: bytes) -> None:
    fast = qrpc.decode_calls(chunk)
    if fast is not None:
        assert fast == [finish(qrpc.decoding_line(line)) for line in chunk.split(b"\n") if line.strip()]


spaces = st.sampled_from([b"", b"", b"", b" ", b"\t", b"\r", b" \r\t "])
hostile_keys = st.sampled_from(
    [
        *(
            b'"%b"' % key
            for key in (b"v", b"id", b"n", b"m", b"b", b"type", b"data", b"auth", b"ttr", b"jsonrpc", b"params", b"")
        ),
        *(
            rb'"\u0076"',
            rb'"i\u0064"',
            rb'"\u006E"',
            rb'"\u006d"',
            rb'"typ\u0065"',
            rb'"\"id"',
            rb'"id\""',
            rb'"\"type\""',
            b'"ID"',
        ),
    ]
)
hostile_texts = st.sampled_from(
    [
        *(
            b'"%b"' % key
            for key in (
                b"",
                b"a",
                b"id",
                b"type",
                b"n",
                b"insert",
                b"2.0",
                b"},{",
                b"]}\\n",
                b"[" * 70,
                "\ufeff\u2028".encode(),
            )
        ),
        *(
            rb'"\"id\""',
            rb'"\u0069d"',
            rb'"\u00e9"',
            rb'"\ud83d\ude00"',
            rb'"\ud83d"',
            rb'"\ude00\ud83d"',
            rb'"\\"',
            rb'"\\\""',
        ),
        *(b'"\xff"', b'"\xc3"', b'"\xed\xa0\x80"', b'"\xf0\x9f\x98\x80"', b'"' + b"x" * 201 + b'"'),
    ]
)
hostile_numbers = st.sampled_from([b"1", b"-0", b"1.0", b"1e400", b"-1E-999", b"9" * 400, b"18446744073709551616", b"0" + b"1"])
hostile_scalars = hostile_texts | hostile_numbers | st.sampled_from([b"null", b"true", b"[]", b"{}", b"[" * 63 + b"]" * 63])


@st.composite
def hostile_objects(draw: st.DrawFn, members: list[tuple[bytes, bytes]], inner: st.SearchStrategy[bytes], extra: int) -> bytes:
    """An object of these members, and up to `extra` more that take after them, in any order and with any spaces."""
    more = draw(st.lists(st.tuples(hostile_keys, hostile_scalars | inner), max_size=extra))
    found = draw(st.permutations(members + more)) if more else members
    one = draw(spaces)
    inside = b",".join([one + key + one + b":" + draw(spaces) + value + draw(spaces) for key, value in found])
    return b"{" + (inside or one) + b"}"


hostile_values = hostile_scalars | hostile_objects([], hostile_scalars, 3)
parts_of_a_job = ["type", "data", "id", "more"]
parts_of_a_line = ["n", "m", "v", "id", "more", "begin", "end"]


@st.composite
def hostile_jobs(draw: st.DrawFn) -> bytes:
    """A job of which up to two parts are as a client of ill will writes them."""
    hostile = draw(st.sets(st.sampled_from(parts_of_a_job), max_size=2))
    members = [(b'"type"', draw(hostile_scalars) if "type" in hostile else b'"a"')]
    if draw(st.booleans()):
        members.append((b'"data"', draw(hostile_values) if "data" in hostile else b'{"id":1}'))
    if draw(st.booleans()):
        members.append((b'"id"', draw(hostile_scalars) if "id" in hostile else b'"x"'))
    return draw(hostile_objects(members, hostile_values, int("more" in hostile)))


@st.composite
def hostile_lines(draw: st.DrawFn) -> bytes:
    """A line, as `hostile_jobs` makes jobs."""
    hostile = draw(st.sets(st.sampled_from(parts_of_a_line), max_size=2))
    names = st.sampled_from([b'"echo"', rb'"inse\u0072t"', b'"n"', b'"\xff"', b"1"])
    members = [(b'"n"', draw(names) if "n" in hostile else b'"insert"')]
    members.append((b'"m"', draw(hostile_values if "m" in hostile else hostile_jobs())))
    if draw(st.booleans()):
        members.insert(0, (b'"v"', draw(st.sampled_from([b"1.0", b'"v"', b"01"])) if "v" in hostile else b"1"))
    if draw(st.booleans()):
        members.insert(1, (b'"id"', draw(hostile_scalars) if "id" in hostile else b"7"))
    begins = st.sampled_from([b" ", b"\xef\xbb\xbf", b"\x00", b"\n", b"[", b'{"n":"ping"}'])
    ends = st.sampled_from([b"\r\n", b" \n", b"", b"}\n", b"\n\n", b'{"n":"ping"}\n'])
    begin, end = (draw(begins) if "begin" in hostile else b""), (draw(ends) if "end" in hostile else b"\n")
    return begin + draw(hostile_objects(members, hostile_values, int("more" in hostile))) + end


hostile_chunks = hostile_lines() | st.lists(hostile_lines(), min_size=1, max_size=3).map(b"".join)
HARD = settings(max_examples=400)


def in_doubt(decode: Callable[[], T]) -> T:
    """What comes of it when nothing is taken the fast way."""
    with patch.object(strict, "may_hold_unseen", lambda *_args, **_settings: True):
        return decode()


@HARD
@given(hostile_chunks)
@example(b'{"v":1,"v":1,"n":"insert","m":{"type":"a"}}\n')
@example(b'{"n":"insert","m":{"type":"a","data":{"id":1},"data":{"type":2}}}\n')
@example(b'{"n":"insert","m":{"type":"a","data":{"id":1}},"m":{"type":"a"}}\n')
@example(b'{"id":7,"n":"insert","m":{"type":"a","id":null}}\n')
@example(b'{"id":7,"id":8,"n":"insert","m":{"type":"a"}}\n')
@example(b'{"n":"insert","m":{"type":"b","type":"a"}}\n')
@example(b'{"n":"insert","m":{"id":"x","type":"a","id":"y"}}\n')
@example(rb'{"n":"insert","m":{"\u0074ype":"b","type":"a"}}' + b"\n")
@example(rb'{"n":"insert","\u006d":{"type":"b"},"m":{"type":"a"}}' + b"\n")
def test_hostile_inserts_are_judged_alike_the_fast_way_and_the_exact_one(chunk: bytes) -> None:
    fast = qrpc.decode_inserts(chunk)
    if fast is not None:
        exact = in_doubt(lambda: slowly(chunk))
        assert exact is not None
        assert list(zip(map(fields, fast.jobs), fast.ids, strict=True)) == [(fields(job), call_id) for job, call_id in exact]


@HARD
@given(hostile_chunks)
@example(b'{"v":1,"n":"ping","v":1}\n')
@example(b'{"id":7,"n":"ping","id":8}\n')
@example(b'{"n":"ping","m":7,"m":8}\n')
@example(b'{"n":"ping","n":"help"}\n')
def test_hostile_calls_are_judged_alike_the_fast_way_and_the_exact_one(chunk: bytes) -> None:
    fast = qrpc.decode_calls(chunk)
    if fast is not None:
        assert fast == in_doubt(lambda: [finish(qrpc.decoding_line(line)) for line in chunk.split(b"\n") if line.strip()])


@HARD
@given(hostile_lines())
def test_a_hostile_line_is_judged_alike_at_once_and_member_by_member(line: bytes) -> None:
    assert finish(qrpc.decoding_line(line)) == in_doubt(lambda: finish(qrpc.decoding_line(line)))
    assert decode_any(line) == in_doubt(lambda: decode_any(line))


@HARD
@given(hostile_jobs())
@example(b'{"type":"a","auth":{"auth":1},"id":"x"}')
@example(rb'{"type":"a","auth":1,"\u0061uth":2}')
def test_a_hostile_job_is_judged_alike_at_once_and_field_by_field(raw: bytes) -> None:
    assert outcome(lambda: decode_jobs(raw)) == in_doubt(lambda: outcome(lambda: decode_jobs(raw)))
    if refusal(lambda text: finish(strict.checking_json(text)), raw) is None:
        assert without_auth(raw) == in_doubt(lambda: without_auth(raw))


def without_auth(raw: bytes) -> bytes | None:
    try:
        return finish(taking_auth_out(raw))
    except CallError:
        return None


def pairs_of(text: bytes) -> list[tuple[str, Any]]:
    """The members of the object in `text`, each as often as it stands."""
    pairs: list[tuple[str, Any]] = []

    def keep(found: list[tuple[str, Any]]) -> None:
        pairs[:] = found  # the outermost comes last

    json.loads(text.decode(errors="surrogateescape"), object_pairs_hook=keep, parse_int=str)
    return pairs


@HARD
@given(hostile_objects([], hostile_values, 4))
@example(b'{"id":"id","id":1}')
@example(rb'{"id":1,"\u0069d":2}')
@example(rb'{"id":1,"b":"\"id","id":2}')
@example(b'{"b":"id","n":"id"}')
def test_nothing_unseen_means_that_each_key_stands_as_often_as_it_was_found(text: bytes) -> None:
    try:
        found = msgspec.json.decode(text, type=dict[str, Raw])
    except ValueError:
        return
    names = [key for key, _ in pairs_of(text)]
    ours = {key: key in found for key in ("v", "id", "n", "m", "b", "type", "auth", "jsonrpc")}
    if not strict.may_hold_unseen(text, {b'"%b"' % key.encode(): count for key, count in ours.items()}, [*found.values()]):
        assert {key: names.count(key) for key in ours} == ours
    fewest_bytes = 1 + max(1, sum(len(f'"{key}":,') + len(value) for key, value in found.items()))
    if not strict.may_hold_unseen(text, {b'"\n"': 1}, fewest_bytes=fewest_bytes):
        assert sorted(names) == sorted(found)


@given(text, json_texts, call_ids.flatmap(as_json))
def test_a_call_comes_out_as_it_went_in(name: str, arg: bytes, call_id: bytes) -> None:
    line = b'{"v":1,"id":%b,"n":%b,"m":%b}\n' % (call_id, msgspec.json.encode(name), arg)
    assert finish(qrpc.decoding_line(line)) == Call(name, Raw(arg), Raw(call_id))
    line = b'{"jsonrpc":"2.0","id":%b,"method":%b,"params":%b}\n' % (call_id, msgspec.json.encode(name), arg)
    assert finish(jsonrpc.decoding_line(line)) == [Call(name, Raw(arg), Raw(call_id), dialect=Dialect.JSONRPC)]


@given(call_ids.flatmap(as_json), json_texts, text, st.binary())
def test_every_answer_is_one_line_of_json_with_the_id_as_it_came(id_: bytes, result: bytes, message: str, blob: bytes) -> None:
    call_id = Raw(id_)
    answers = [
        qrpc.end(call_id, result),
        qrpc.progress(call_id, result),
        qrpc.error(call_id, "bad_job", message),
        qrpc.end_blob(call_id, blob),
        jsonrpc.result(call_id, result),
        jsonrpc.error(call_id, "stale", message),
    ]
    for answer in answers:
        assert answer.index(b"\n") == len(answer) - 1
        assert json.loads(answer)["id"] == json.loads(id_)
    assert json.loads(answers[0])["m"] == json.loads(result)
    assert json.loads(answers[2])["e"]["message"] == message


@given(st.dictionaries(text, values, max_size=4), values, st.integers(0, 4), st.data())
def test_taking_auth_out_leaves_the_rest(job: dict[str, Any], auth: Any, at: int, data: st.DataObject) -> None:
    job.pop("auth", None)
    items = list(job.items())
    items.insert(at, ("auth", auth))
    raw = data.draw(as_json([dict(items), {"data": {"auth": 1}}]))
    assert json.loads(finish(taking_auth_out(raw))) == [job, {"data": {"auth": 1}}]
    assert json.loads(finish(taking_auth_out(data.draw(as_json(dict(items)))))) == job


@given(st.lists(job_values, max_size=3).flatmap(as_json))
def test_accepted_jobs_replay_alike(raw: bytes) -> None:
    if refusal(decode_jobs, raw) is None:
        assert list(map(fields, replay_jobs(raw))) == list(map(fields, decode_jobs(raw)))


def outcome(decode: Callable[[], list[Job]]) -> tuple[str, Any]:
    """What jobs come of it, or how they are refused."""
    try:
        return "jobs", [fields(job) for job in decode()]
    except CallError as refused:
        return refused.call_code, None


repeatable = st.sampled_from(["type", "id", "data", "ttr", "delay", "at", "prio", "keep", "wait", "expire", "colour"])


@st.composite
def repeating_objects(draw: st.DrawFn) -> bytes:
    """An object with the fields of a job, some of them more than once."""
    members = draw(st.lists(st.tuples(repeatable, st.sampled_from([b'"a"', b"1", b"null", b"[ 1,2]"])), max_size=5))
    spaces = draw(st.sampled_from([b"", b" "]))
    parts = [b'"type":"a"', *(b'"%b"%b:%b%b' % (key.encode(), spaces, spaces, value) for key, value in members)]
    return b"{" + b",".join(draw(st.permutations(parts))) + spaces + b"}"


@given(job_values.flatmap(as_json) | repeating_objects())
def test_a_long_job_is_judged_like_a_short_one(raw: bytes) -> None:
    """Long ones are decoded member by member, and short ones in one pass."""
    if refusal(lambda text: finish(strict.checking_json(text)), raw) is None and b'"auth"' not in raw:
        padded = raw[:-1] + b" " * (SHORT_BYTES + 1) + b"}"
        assert outcome(lambda: finish(decoding(padded, 1)).jobs) == outcome(lambda: finish(decoding(raw, 1)).jobs)


@given(st.lists(job_values.flatmap(as_json) | repeating_objects(), min_size=1, max_size=4))
def test_a_long_array_is_judged_like_a_short_one(elements: list[bytes]) -> None:
    """Long ones are decoded run by run."""
    raw, padded = (b"[%b]" % b",".join([element + space for element in elements]) for space in (b"", b" " * SHORT_BYTES))
    if refusal(lambda text: finish(strict.checking_json(text)), raw) is None:
        code, jobs = outcome(lambda: finish(decoding(raw, 9)).jobs)
        long_code, long_jobs = outcome(lambda: finish(decoding(padded, 9)).jobs)
        assert (long_code, long_jobs) == (code, jobs)
