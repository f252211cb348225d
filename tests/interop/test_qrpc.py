"""The npm client `qrpc`, unmodified, against a real server."""

from tests.interop.conftest import Ask

ECHOED = {"a": [1, 2.5, None, True], "b": {"text": 'h\u00e9 "\\ \u2028', "big": 9007199254740991}}


def test_ping_is_answered_without_an_error(ask: Ask) -> None:
    assert ask("ping") == {"isError": False, "error": None, "result": "pong"}


def test_an_echoed_object_comes_back_equal(ask: Ask) -> None:
    assert ask("echo") == {"isError": False, "error": None, "result": ECHOED}


def test_an_echoed_buffer_comes_back_as_the_same_buffer(ask: Ask) -> None:
    assert ask("blob") == {"isBuffer": True, "same": True}


def test_an_insert_answers_an_id(ask: Ask) -> None:
    answer = ask("insert")
    assert answer["error"] is None
    assert isinstance(answer["result"], str)


def test_a_refused_insert_gives_an_error_with_our_message_and_code(ask: Ask) -> None:
    answer = ask("badInsert")
    assert answer["isError"] is True
    assert answer["error"]["code"] == "bad_job"
    assert "dat" in answer["error"]["message"]


def test_an_unknown_call_gives_an_error_with_its_code(ask: Ask) -> None:
    assert ask("unknown")["error"]["code"] == "unknown_call"


def test_fifty_thousand_calls_in_flight_are_each_answered_with_their_own(ask: Ask) -> None:
    assert ask("flood") == {"answered": 50_000, "right": 50_000}
