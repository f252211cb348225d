import json

import pytest
from msgspec import Raw

from kqs.options import JobFields, PlainJob
from kqs.wire import qrpc
from kqs.wire.call import NULL, BadLine, Call
from kqs.wire.qrpc import decode_calls, decode_inserts, decoding_line
from kqs.wire.steps import finish

ID = Raw(b'"a1"')
INSERT = b'{"v":1,"id":7,"n":"insert","m":{"type":"a","data":[1, 2]}}\n'


def decode_line(line: bytes) -> Call | BadLine:
    return finish(decoding_line(line))


def bad(line: bytes, code: str = "bad_call") -> str:
    found = decode_line(line)
    assert isinstance(found, BadLine)
    assert found.code == code
    return found.message


class TestLine:
    def test_a_call_is_decoded(self) -> None:
        assert decode_line(b'{"v":1,"id":"a1","n":"echo","m":{"a": 1}}\n') == Call("echo", Raw(b'{"a": 1}'), ID)

    @pytest.mark.parametrize(
        "line", [b'{"n":"ping"}', b'{"n":"ping"}\r\n', b' { "n" : "ping", "id":null } ', rb'{"\u006e":"ping"}']
    )
    def test_all_but_the_name_may_be_left_out(self, line: bytes) -> None:
        assert decode_line(line) == Call("ping", NULL, None)

    @pytest.mark.parametrize(
        "line", [b'{"b":4,"n":"echo","b":"AP8="}', b'{"n":"echo","b":"AP8=","m":{"c":1}}', b'{"n":"echo","b":"AP8\\u003d"}']
    )
    def test_a_blob_wins_over_the_argument(self, line: bytes) -> None:
        call = decode_line(line)
        assert isinstance(call, Call)
        assert call.blob == b"\x00\xff"

    def test_an_empty_blob_is_a_blob_and_null_is_none(self) -> None:
        assert decode_line(b'{"n":"echo","b":""}') == Call("echo", blob=b"")
        assert decode_line(b'{"n":"echo","b":null,"m":1}') == Call("echo", Raw(b"1"))

    @pytest.mark.parametrize("text", [b'"AP8"', b'"A*8="', b'"\xc3\xa9"', b"4", b"{}"])
    def test_what_is_no_base64_is_refused(self, text: bytes) -> None:
        assert bad(b'{"n":"echo","b":' + text + b"}").startswith("b: expected ")

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (b"{}", "n: missing"),
            (b'{"n":5}', "n: expected a text"),
            (b'{"n":"a","v":2}', "v: expected 1, got 2"),
            (b'{"n":"a","v":"1"}', "v: expected 1"),
            (b'{"n":"a","mm":2}', 'unknown key "mm"; the nearest known one is "m"'),
            (b'{"n":"a","n":"b"}', "n: stands twice"),
            (b'{"n":"a","id":1,"id":2}', "id: stands twice"),
            (b'{"n":"a","m":1,"m":2}', "m: stands twice"),
            (b'{"n":"a","v":1,"v":1}', "v: stands twice"),
            (b'{"n":"a","id":true}', "id: expected"),
            (b"[1]", "expected a call"),
        ],
    )
    def test_what_is_no_call_is_told_why(self, line: bytes, message: str) -> None:
        assert bad(line).startswith(message)

    def test_a_bad_call_keeps_its_id(self) -> None:
        found = decode_line(b'{"id":"a1","n":5}')
        assert isinstance(found, BadLine)
        assert found.id == ID


#: what JSON parsers let through, and KQS refuses at the door
HOSTILE = {
    "deep": b"[" * 65 + b"]" * 65,
    "very deep": b"[" * 100_000,
    "NaN": b"NaN",
    "Infinity": b"-Infinity",
    "invalid UTF-8": b'"\xff"',
    "overlong": b'"\xc0\xaf"',
    "surrogate bytes": b'"\xed\xa0\x80"',
    "lone high surrogate": rb'"\ud800"',
    "lone low surrogate": rb'"a\uDFFFb"',
    "reversed pair": rb'"\ude00\ud83d"',
    "raw control character": b'"\x01"',
    "trailing comma": b"[1,]",
    "leading zero": b"01",
}
#: … and what it must leave as it is
HARMLESS = {
    "2^64": b"18446744073709551616",
    "1e400": b"1e400",
    "4301 digits": b"9" * 4301,
    "NUL escape": rb'"\u0000"',
    "pair": rb'"\ud83d\ude00"',
    "escaped backslash before ud800": rb'"\\ud800"',
    "duplicate keys in data": b'{"a":1,"a":2}',
    "control names in data": b'{"id":1,"type":"n","n":"m","m":{"id":2}}',
    "62 deep": b"[" * 62 + b"]" * 62,
    "many brackets": b"[" + b"[]," * 500 + b'"[["]',
    "many lists": b"[" + b"[]," * 100_000 + b"1]",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
class TestHostile:
    def test_it_is_bad_json(self, data: bytes) -> None:
        bad(b'{"id":1,"n":"echo","m":' + data + b"}\n", "bad_json")

    def test_it_takes_no_fast_way(self, data: bytes) -> None:
        assert decode_calls(INSERT + b'{"id":1,"n":"echo","m":' + data + b"}\n") is None
        line = INSERT.replace(b"[1, 2]", data)
        assert decode_inserts(line) is decode_inserts(INSERT + line) is None


@pytest.mark.parametrize("data", HARMLESS.values(), ids=HARMLESS.keys())
class TestHarmless:
    def test_it_passes_untouched(self, data: bytes) -> None:
        assert decode_line(b'{"n":"echo","m":' + data + b"}\n") == Call("echo", Raw(data))

    def test_it_takes_the_fast_way(self, data: bytes) -> None:
        inserts = decode_inserts(INSERT + INSERT.replace(b"[1, 2]", data))
        assert inserts is not None
        assert bytes(inserts.jobs[1].data) == data
        assert decode_calls(b'{"n":"echo","m":' + data + b"}\n") == [Call("echo", Raw(data))]


@pytest.mark.parametrize("text", ["﻿".encode() + INSERT, INSERT.decode().encode("utf-16"), INSERT.decode().encode("utf-32")])
def test_other_encodings_are_bad_json(text: bytes) -> None:
    bad(text, "bad_json")
    assert (decode_inserts(text), decode_calls(text)) == (None, None)


class TestInserts:
    def test_a_chunk_of_plain_jobs_is_decoded_at_once(self) -> None:
        line = b'{"n":"insert","m":{"type":"b","id":"j1"}}\n'
        assert decode_inserts(INSERT + line) == qrpc.Inserts(
            [PlainJob("a", Raw(b"[1, 2]")), PlainJob("b", id="j1")], [Raw(b"7"), None]
        )

    def test_a_chunk_with_options_is_decoded_at_once(self) -> None:
        inserts = decode_inserts(INSERT + b'{"n":"insert","m":{"type":"a","prio":5,"at":1}}\n')
        assert inserts is not None
        assert [type(job) for job in inserts.jobs] == [JobFields, JobFields]

    @pytest.mark.parametrize("data", [b"", b',"data":null', b',"data":"}{"', b',"data":' + b"[" * 63 + b"]" * 63])
    @pytest.mark.parametrize("head", [b"", b'"v":1,', b'"id":"x",', b'"v":1,"id":-1e9,', b' "id" : 7 , '])
    def test_a_line_alone_is_decoded_as_among_others(self, head: bytes, data: bytes) -> None:
        line = b'{%b"n":"insert","m":{"type":"a"%b}}\n' % (head, data)
        both = decode_inserts(line * 2)
        assert decode_inserts(line) == (both and qrpc.Inserts(both.jobs[:1], both.ids[:1]))

    @pytest.mark.parametrize("wait", [b"0", b"10", b"0.5", b"1e1", b"604800"])
    def test_a_line_alone_that_is_plain_but_for_its_wait_says_that_apart(self, wait: bytes) -> None:
        assert decode_inserts(INSERT) is not None  # from here on the type is known
        line = b'{"v":1,"id":7,"n":"insert","m":{"type":"a","data":[1, 2],"wait":%b}}\n' % wait
        assert decode_inserts(line) == qrpc.Inserts([PlainJob("a", Raw(b"[1, 2]"))], [Raw(b"7")], float(wait))
        assert qrpc.replay_calls(line) == [JobFields(type="a", data=Raw(b"[1, 2]"), wait=float(wait))]

    @pytest.mark.parametrize("more", [b',"type":"a"', b', "data":1', b' , "wait":5'])
    def test_spaces_hide_no_part_that_stands_twice(self, more: bytes) -> None:
        assert decode_inserts(INSERT) is not None
        for data in (b'"%b"' % (b" " * len(more)), b"1" + b" " * len(more)):
            inserts = decode_inserts(b'{"n":"insert","m":{"type":"a","wait":5,"data":%b%b}}\n' % (data, more))
            assert inserts is None or inserts.wait_s is None

    @pytest.mark.parametrize("data", ["null", "7", '" : "', '{"a": [1, 2]}'])
    def test_a_line_alone_may_have_spaces_between_its_parts(self, data: str) -> None:
        assert decode_inserts(INSERT) is not None  # from here on the type is known
        line = f'{{"v": 1, "id": "a b", "n": "insert", "m": {{"type": "a", "data": {data}, "wait": 5}}}} \n'.encode()
        assert decode_inserts(line) == qrpc.Inserts([PlainJob("a", Raw(data.encode()))], [Raw(b'"a b"')], 5.0)

    @pytest.mark.parametrize(
        "job",
        [
            b'"type":"a","wait":null',
            b'"type":"a","wait":5, "data":1, "data":" "',
            b'"type":"a","wait":5,"data":"   ","wait":5',
            b'"type":"a",\t"wait":5',
            b'"type":"a","wait":5,"prio":1',
            b'"type":"a","wait":5,"id":"mine"',
            b'"type":"never seen","wait":5',
            b'"type":"a","data":{"wait":5}',
        ],
    )
    def test_a_wait_beside_which_anything_is_in_doubt_is_left_in_the_job(self, job: bytes) -> None:
        assert decode_inserts(INSERT) is not None
        line = b'{"n":"insert","m":{%b}}\n' % job
        inserts = decode_inserts(line)
        assert inserts is not None
        assert inserts.wait_s is None
        assert inserts.jobs == qrpc.replay_calls(line)

    @pytest.mark.parametrize(
        "chunk",
        [
            INSERT + b"\r\n \n\n" + INSERT,
            INSERT.replace(b"\n", b"\r\n") * 2,
            b" " + INSERT.replace(b"\n", b" \n") + b"\n" + INSERT,
        ],
    )
    def test_blank_lines_and_carriage_returns_are_nothing(self, chunk: bytes) -> None:
        inserts = decode_inserts(chunk)
        assert inserts is not None
        assert len(inserts.jobs) == 2
        assert qrpc.replay_calls(chunk) == inserts.jobs

    @pytest.mark.parametrize(
        "line",
        [
            b'{"n":"echo","m":{"type":"a"}}\n',
            b'{"n":"insert","m":[{"type":"a"}]}\n',
            b'{"n":"insert","m":5}\n',
            b'{"n":"insert"}\n',
            b'{"n":"insert","m":{"type":"a","auth":{}}}\n',
            b'{"n":"insert","m":{"type":"a","type":"b"}}\n',
            b'{"n":"insert","m":{"type":"a","id":"a","id":"b"}}\n',
            b'{"n":"insert","m":{"type":"a","id":"a b"}}\n',
            b'{"n":"insert","m":{"type":"a"},"m":{"type":"b"}}\n',
            b'{"n":"insert","n":"insert","m":{"type":"a"}}\n',
            b'{"id":1,"id":2,"n":"insert","m":{"type":"a"}}\n',
            rb'{"n":"insert","m":{"type":"a","\u0074ype":"b"}}' + b"\n",
            rb'{"n":"insert","m":{"type":"a\u0000"}}' + b"\n",
            '{"n":"insert","m":{"type":"%s"}}\n'.replace("%s", "é" * 101).encode(),
            b'{"n":"insert","m":{"type":"a","delay":1,"at":5}}\n',
            b'{"n":"insert","m":{"type":"a","at":"noon"}}\n',
            b'{"n":"insert","m":{"type":"a","wait":-1}}\n',
            b'{"n":"insert","m":{"type":"a","wait":604801}}\n',
            b'{"n":"insert","m":{"type":"a","wait":"5"}}\n',
            b'{"n":"insert","m":{"type":"a","type":"b","wait":5}}\n',
            b'{"n":"insert","m":{"type":"a","wait":5,"auth":{}}}\n',
            b'{"v":2,"n":"insert","m":{"type":"a"}}\n',
            b'{"id":true,"n":"insert","m":{"type":"a"}}\n',
            b'{"id":null,"n":"insert","m":{"type":"a"}}\n',
            b'{"id":"' + b"x" * 199 + b'","n":"insert","m":{"type":"a"}}\n',
            b'{"n":"insert","m":{"type":"a"},"b":"AA=="}\n',
            b'{"jsonrpc":"2.0","method":"insert","params":{"type":"a"}}\n',
            b'{"n":"insert","m":{"type":"a"}}{"n":"insert","m":{"type":"a"}}\n',
            b'{"n":"insert",\n"m":{"type":"a"}}\n',
            b'{"n":"insert","m":{"type":"a"}}{"n":"insert",\n"m":{"type":"a"}}\n',
            b'{"n":"insert","m":{"type":"a"}}',
            b"nonsense\n",
        ],
    )
    def test_one_line_that_is_no_clean_insert_stops_the_fast_way(self, line: bytes) -> None:
        assert decode_inserts(line) is None
        assert decode_inserts(INSERT + line) is None

    def test_nothing_but_blank_lines_is_no_insert(self) -> None:
        assert decode_inserts(b"\n\r\n") is None


class TestCalls:
    def test_a_chunk_of_calls_is_decoded_at_once(self) -> None:
        chunk = b'{"v":1,"id":1,"n":"echo","m":{"id":1,"m":2}}\r\n\n{"n":"ping"}\n{"id":"a1","n":"x","m":null}\n'
        assert decode_calls(chunk) == [Call("echo", Raw(b'{"id":1,"m":2}'), Raw(b"1")), Call("ping"), Call("x", NULL, ID)]

    def test_blank_lines_are_no_calls(self) -> None:
        assert decode_calls(b"\n \r\n") == []

    @pytest.mark.parametrize(
        "line",
        [
            b'{"n":"echo","b":"AA=="}\n',
            b'{"jsonrpc":"2.0","method":"ping"}\n',
            b'{"m":1}\n',
            b'{"n":"echo","m":1,"m":2}\n',
            b'{"n":"echo","n":"ping"}\n',
            b'{"id":1,"id":2,"n":"echo"}\n',
            b'{"id":{},"n":"echo"}\n',
            b'{"n":"echo"',
            b"x\n",
        ],
    )
    def test_one_line_that_is_no_plain_call_stops_the_fast_way(self, line: bytes) -> None:
        assert decode_calls(b'{"n":"ping"}\n' + line) is None


class TestAnswers:
    def test_the_end_of_a_call(self) -> None:
        assert qrpc.end(ID, NULL) == b'{"v":1,"id":"a1","e":null,"s":"end","m":null}\n'
        assert qrpc.end(None, b'"pong"') == b'{"v":1,"s":"end","m":"pong"}\n'

    def test_progress_of_a_call(self) -> None:
        assert qrpc.progress(ID, b"1") == b'{"v":1,"id":"a1","e":null,"s":"ok","m":1}\n'
        assert qrpc.progress(None, b"1") == b'{"v":1,"s":"ok","m":1}\n'

    def test_an_error_has_its_fields_in_order(self) -> None:
        fault = '{"_isError__":1,"name":"Error","message":"a \\"b\\" é","code":"bad_job"}'
        assert qrpc.error(ID, "bad_job", 'a "b" é') == b'{"v":1,"id":"a1","e":%b,"s":"err"}\n' % fault.encode()
        assert qrpc.error(None, "bad_job", 'a "b" é') == b'{"v":1,"e":%b,"s":"err"}\n' % fault.encode()

    def test_a_blob_goes_back_with_its_length_first(self) -> None:
        assert qrpc.end_blob(ID, b"\x00\xff") == b'{"v":1,"b":4,"id":"a1","e":null,"s":"end","b":"AP8="}\n'
        assert qrpc.end_blob(None, b"\x00\xff") == b'{"v":1,"b":4,"s":"end","b":"AP8="}\n'

    def test_an_empty_blob_goes_back_as_null(self) -> None:
        assert qrpc.end_blob(ID, b"") == qrpc.end(ID, NULL)

    def test_inserts_are_answered_together(self) -> None:
        answers = qrpc.insert_answers([ID, Raw(b"2")], 0xABC, "-0123abcd").splitlines()
        assert [json.loads(line)["m"] for line in answers] == ["0000000000abc-0123abcd", "0000000000abd-0123abcd"]
        assert answers[0] == b'{"v":1,"id":"a1","e":null,"s":"end","m":"0000000000abc-0123abcd"}'

    def test_answers_to_many_are_those_to_each(self) -> None:
        ids = [Raw(b"%d" % number) for number in range(600)]
        singly = b"".join([qrpc.insert_answers([call_id], 0xABC + number, "-0123abcd") for number, call_id in enumerate(ids)])
        assert qrpc.insert_answers(ids, 0xABC, "-0123abcd") == singly
        assert qrpc.ends([*ids, None], [*ids, NULL]) == b"".join(map(qrpc.end, [*ids, None], [*ids, NULL]))
        assert qrpc.ends(ids, ids) == b"".join(map(qrpc.end, ids, ids))

    def test_an_insert_without_call_id_is_answered_without(self) -> None:
        assert qrpc.insert_answers([None], 0xABC, "-0123abcd") == b'{"v":1,"s":"end","m":"0000000000abc-0123abcd"}\n'

    def test_a_job_with_its_own_id_is_answered_with_that(self) -> None:
        answers = qrpc.insert_answers([ID, None], 0xABC, "-0123abcd", [PlainJob("a", id="mine"), PlainJob("a")])
        assert answers == qrpc.end(ID, b'"mine"') + qrpc.end(None, b'"0000000000abd-0123abcd"')

    def test_jobs_without_ids_change_nothing(self) -> None:
        assert qrpc.insert_answers([ID], 1, "-0123abcd", [PlainJob("a")]) == qrpc.insert_answers([ID], 1, "-0123abcd")


@pytest.mark.parametrize("field", [b'"answer":"full"', b'"unique":"k"'])
def test_insert_that_is_told_more_than_its_id_is_none_of_many(field: bytes) -> None:
    line = b'{"n":"insert","m":{"type":"t","delay":1}}\n'
    assert qrpc.decode_inserts(line * 2) is not None
    assert qrpc.decode_inserts(line + b'{"n":"insert","m":{"type":"t",%b}}\n' % field) is None
