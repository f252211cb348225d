from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel
from structlog.testing import capture_logs

import kqs
from kqs.executor import outcomes
from kqs.executor.outcomes import KEPT_FRAMES, delayed, judge, judge_data, judge_result
from kqs.handlers import Handler, Registry
from kqs.job import MAX_ERROR_CHARS, Claim, Run
from kqs.outcome import Again, Failed, Ok

RUN = Run(Claim(1, "id-1", 2, 1), "resize", 10_000, b"null", None)
NO_DELAY = "Again has no delay that can be used: ValueError: delay: expected a number of seconds"
NAN, INFINITY = float("nan"), float("inf")


class AgainWithoutDelay(kqs.Again):
    def __init__(self) -> None:
        self.until = "tomorrow"


class AgainThatRaises(kqs.Again):
    @property
    def delay(self) -> float:
        raise KeyboardInterrupt

    @delay.setter
    def delay(self, value: float) -> None: ...


def again_with(delay: Any) -> kqs.Again:
    verdict = kqs.Again()
    verdict.delay = delay
    return verdict


class FailWithoutReason(kqs.Fail):
    def __init__(self, code: int) -> None:
        self.code = code


class FailThatRaises(kqs.Fail):
    @property
    def reason(self) -> str:  # type: ignore[override]  # that is the fault
        raise SystemExit

    @property
    def final(self) -> bool:  # type: ignore[override]  # that is the fault
        raise GeneratorExit

    def __init__(self) -> None: ...


class NeitherTrueNorFalse:
    def __bool__(self) -> bool:
        raise KeyboardInterrupt


class Mute(BaseException):
    def __str__(self) -> str:
        raise SystemExit

    __repr__ = __str__


class Text(str):
    def encode(self, *_args: Any, **_named: Any) -> bytes:
        raise KeyboardInterrupt


class Talkative(Exception):  # noqa: N818
    def __str__(self) -> str:
        return Text("said")


class Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]  # that is the fault
        raise SystemExit


class OfAnOddClass(Exception, metaclass=Nameless):  # noqa: N818
    pass


class Noted(Exception):  # noqa: N818
    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]  # that is the fault
        raise KeyboardInterrupt


class TwoFaced(Exception):  # noqa: N818
    @property  # type: ignore[misc]  # that is the fault
    def __class__(self) -> Any:
        raise SystemExit


@pytest.mark.parametrize(
    ("raised", "outcome"),
    [
        (lambda: kqs.Again(), Again(None)),
        (lambda: again_with(3), Again(3.0)),
        (
            lambda: again_with(Decimal("1.5")),
            NO_DELAY,
        ),
        (lambda: again_with(NAN), NO_DELAY),
        (lambda: again_with(10**400), NO_DELAY),
        (lambda: AgainWithoutDelay(), "AgainWithoutDelay has no delay that can be used: "),
        (lambda: AgainThatRaises(), "AgainThatRaises has no delay that can be used: KeyboardInterrupt"),
        (lambda: kqs.Fail("gone"), Failed("gone", final=True)),
        (lambda: FailWithoutReason(7), Failed("7", final=True)),
        (lambda: FailThatRaises(), Failed("FailThatRaises", final=True)),
        (lambda: kqs.Fail("?", final=NeitherTrueNorFalse()), Failed("?", final=True)),  # type: ignore[arg-type]  # that is the fault
        (lambda: kqs.Fail(Mute()), Failed("(cannot be shown)", final=True)),  # type: ignore[arg-type]  # that is the fault
        (lambda: KeyboardInterrupt(), Failed("KeyboardInterrupt")),
        (lambda: SystemExit(3), Failed("SystemExit: 3")),
        (lambda: GeneratorExit(), Failed("GeneratorExit")),
        (lambda: BaseExceptionGroup("two", [SystemExit(1), KeyboardInterrupt()]), "BaseExceptionGroup: two (2 sub-exceptions)"),
        (lambda: Mute(), Failed("Mute: (cannot be shown)")),
        (lambda: Talkative(), Failed("Talkative: said")),
        (lambda: OfAnOddClass(), "an exception that cannot be looked at"),
        (lambda: Noted("here"), Failed("Noted: here")),
        (lambda: TwoFaced(), "an exception that cannot be looked at"),
    ],
)
def test_whatever_is_raised_is_an_outcome(raised: Callable[[], BaseException], outcome: Any) -> None:
    found = judge(raised(), RUN)
    if isinstance(outcome, str):
        assert isinstance(found, Failed)
        assert not found.final
        assert found.reason.startswith(outcome)
    else:
        assert found == outcome
        assert type(getattr(found, "delay_s", 0.0)) in (float, type(None))


@pytest.mark.parametrize("fault", [kqs.Fail("no such user"), kqs.Fail("busy", final=False), ValueError("no such user")])
def test_each_failure_is_a_line_in_the_log(fault: Exception) -> None:
    with capture_logs() as lines:
        judge(fault, RUN)
    (line,) = lines
    assert (line["type"], line["job"], line["attempt"]) == ("resize", "id-1", 2)
    assert line["reason"].endswith(str(getattr(fault, "reason", fault)))


def test_data_that_does_not_fit_is_a_line_in_the_log() -> None:
    with capture_logs() as lines:
        judge_data(msgspec.DecodeError("Number out of range"), RUN)
    assert [line["reason"] for line in lines] == ["data: number out of range"]


def test_a_message_of_5_mb_is_a_short_line_in_the_log() -> None:
    def raised() -> ValueError:
        try:
            raise ValueError("x" * 5_000_000)
        except ValueError as fault:
            return fault

    for fault in (raised(), kqs.Fail("x" * 5_000_000)):
        with capture_logs() as lines:
            outcome = judge(fault, RUN)
        assert isinstance(outcome, Failed)
        assert sum(len(str(value)) for value in lines[0].values()) < 12_000
    assert "test_outcomes.py" not in str(lines[0].get("exception"))


def raised(fault: BaseException) -> BaseException:
    try:
        raise fault
    except BaseException as caught:
        return caught


def reason_of(fault: BaseException) -> str:
    outcome = judge(fault, RUN)
    assert isinstance(outcome, Failed)
    return outcome.reason


def deep(levels: int) -> None:
    if not levels:
        raise ValueError("at the bottom")
    deep(levels - 1)


def test_the_end_of_the_trace_is_kept_with_the_reason() -> None:
    reason = reason_of(raised(ValueError("boom")))
    assert reason.startswith("ValueError: boom\n  File ")
    assert reason.endswith("    raise fault")
    assert judge(ValueError("never raised"), RUN) == Failed("ValueError: never raised")
    with pytest.raises(ValueError, match="at the bottom") as caught:
        deep(100)
    name, *frames = reason_of(caught.value).splitlines()
    assert name == "ValueError: at the bottom"
    assert 2 < len(frames) <= 3 * KEPT_FRAMES
    assert frames[-1] == '    raise ValueError("at the bottom")'
    assert frames[0].startswith("  ")


@pytest.mark.parametrize("text", ["x" * 100_000, "é\n" * 100_000, "\ud800" * 100_000])
def test_what_is_kept_of_a_long_reason_leaves_room_for_the_trace(text: str) -> None:
    reason = reason_of(raised(ValueError(text)))
    assert len(reason) < MAX_ERROR_CHARS
    assert reason.startswith("ValueError: ")
    assert "raise fault" in reason


def test_a_cut_trace_keeps_where_it_began_and_where_it_ended() -> None:
    try:
        raise ValueError("x" * 50_000 + "the end")
    except ValueError as fault:
        with capture_logs() as lines:
            judge(fault, RUN)
    assert "in test_a_cut_trace_keeps_where_it_began_and_where_it_ended" in lines[0]["exception"]
    assert lines[0]["exception"].endswith("the end")


def test_of_a_failure_of_many_exceptions_few_are_looked_at() -> None:
    looks = []

    class CountedError(Exception):
        def __str__(self) -> str:
            looks.append(1)
            return "one of many"

    with capture_logs() as lines:
        outcome = judge(ExceptionGroup("many", [CountedError() for _ in range(20_000)]), RUN)
    assert outcome == Failed("ExceptionGroup: many (20000 sub-exceptions)")
    assert "one of many" in lines[0]["exception"]
    assert len(looks) < 100


def test_a_log_that_cannot_be_written_changes_no_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def warning(self, *_args: Any, **_named: Any) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(outcomes, "_log", Broken())
    assert judge(kqs.Fail("no"), RUN) == Failed("no", final=True)


@pytest.mark.parametrize(
    ("raised", "outcome"),
    [
        (lambda: ValueError("Odd"), Failed("data: odd", final=True)),
        (lambda: RecursionError("too deep"), Failed("data: too deep", final=True)),
        (lambda: SystemExit(2), Failed("SystemExit: 2")),
        (lambda: KeyboardInterrupt(), Failed("KeyboardInterrupt")),
        (lambda: ConnectionError("the validator asked a server"), Failed("ConnectionError: the validator asked a server")),
        (lambda: kqs.Again(5), Again(5.0)),
        (lambda: kqs.Fail("unknown kind"), Failed("unknown kind", final=True)),
        (lambda: TwoFaced(), Failed("an exception that cannot be looked at")),
    ],
)
def test_whatever_a_validator_raises_is_an_outcome(raised: Callable[[], BaseException], outcome: Any) -> None:
    assert judge_data(raised(), RUN) == outcome


class Point(BaseModel):
    x: float
    weight: Decimal = Decimal(1)
    note: str | None = None


class Anything(BaseModel):
    x: Any
    note: str | None = None


class Nested(BaseModel):
    points: list[Anything]


class Pair(msgspec.Struct):
    left: Any
    right: Any = None


@dataclasses.dataclass
class Data:
    value: Any
    none: None = None


class Name(str):
    pass


class Count(int):
    pass


class Share(float):
    pass


class Level(enum.Enum):
    OFF = None


@pytest.mark.parametrize(
    "number",
    [
        NAN,
        INFINITY,
        -INFINITY,
        Share("nan"),
        Share("-inf"),
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        Decimal("-Infinity"),
    ],
)
@pytest.mark.parametrize(
    "around",
    [
        lambda number: number,
        lambda number: [1, [None, (2.5, {"a": number})]],
        lambda number: Pair(None, [number]),
        lambda number: Data({"a": Data(number)}),
        lambda number: Anything(x=[number]),
        lambda number: Anything(x=number),
        lambda number: {"all": [Nested(points=[Anything(x=number)])]},
    ],
)
def test_a_number_that_json_does_not_have_is_a_final_failure(number: Any, around: Callable[[Any], Any]) -> None:
    outcome = judge_result(around(number), RUN)
    assert isinstance(outcome, Failed)
    assert outcome.final
    assert outcome.reason == "the handler's result cannot be written as JSON: NaN and Infinity are no numbers in JSON"


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ([None, 1e308, -0.0], b"[null,1e308,-0.0]"),
        ("NaN and null and Infinity", b'"NaN and null and Infinity"'),
        ({"NaN": None}, b'{"NaN":null}'),
        ({1: None, 2.5: 1}, b'{"1":null,"2.5":1}'),
        (Pair(Decimal("1.5")), b'{"left":"1.5","right":null}'),
        (Point(x=1), b'{"x":1.0,"weight":"1","note":null}'),
        ([Point(x=1, note="NaN")], b'[{"x":1.0,"weight":"1","note":"NaN"}]'),
        (msgspec.Raw(b'{"a": null}'), b'{"a": null}'),
        ([msgspec.Raw(b"null"), None], b"[null,null]"),
        (Level.OFF, b"null"),
        ([Name("a"), {Name("k"): Count(3)}, {Count(4): Share(0.5)}], b'["a",{"k":3},{"4":0.5}]'),
        ([Name("NaN"), Count(1), None], b'["NaN",1,null]'),
        (10**30, b"1" + b"0" * 30),
    ],
)
def test_what_json_has_is_kept(result: Any, text: bytes) -> None:
    assert judge_result(result, RUN) == Ok(text)


@pytest.mark.parametrize("raw", [b"{", b"NaN", b"[1,]", b"1 2", b"1}\n{", b'"\xff"'])
def test_raw_text_that_is_no_json_is_a_final_failure(raw: bytes) -> None:
    for result in (msgspec.Raw(raw), {"a": [msgspec.Raw(raw)]}, Pair(msgspec.Raw(raw))):
        outcome = judge_result(result, RUN)
        assert isinstance(outcome, Failed)
        assert outcome.final


def test_raw_text_of_many_lines_becomes_one() -> None:
    assert judge_result(msgspec.Raw(b'{\r\n  "a": [1,\n 2]\n}'), RUN) == Ok(b'{"a":[1,2]}')


def test_a_result_fits_into_a_line_of_json() -> None:
    deep: list[Any] = []
    for _ in range(59):
        deep = [deep]
    assert isinstance(judge_result(deep, RUN), Ok)
    for result in ([deep], {"a": deep}, msgspec.Raw(b"[" * 61 + b"]" * 61)):
        outcome = judge_result(result, RUN)
        assert isinstance(outcome, Failed)
        assert outcome.final
        assert outcome.reason.endswith("it has more than 60 levels of arrays and objects")
    assert isinstance(judge_result(msgspec.Raw(b'"\\\\ud800 is a word"'), RUN), Ok)
    assert isinstance(judge_result(msgspec.Raw(b'"\\ud800 and no other half"'), RUN), Failed)


def test_a_result_has_a_most() -> None:
    assert isinstance(judge_result("x" * (outcomes.MAX_RESULT_BYTES - 2), RUN), Ok)
    outcome = judge_result("x" * outcomes.MAX_RESULT_BYTES, RUN)
    assert isinstance(outcome, Failed)
    assert outcome.final
    assert outcome.reason.endswith("it takes 16777218 bytes, and 16777216 are allowed")


class Unwritable(BaseModel):
    def model_dump(self, **_named: Any) -> dict[str, Any]:
        raise SystemExit


def endless() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    "result", [Unwritable(), {"a": Unwritable()}, endless(), {1, "a", object()}, b"\xff".decode("utf8", "surrogateescape")]
)
def test_a_result_that_cannot_be_written_is_a_final_failure(result: Any) -> None:
    outcome = judge_result(result, RUN)
    assert isinstance(outcome, Failed)
    assert outcome.final


def failing(retry_delay: Callable[[int], object]) -> Handler:
    return Registry().add("resize", lambda data: data, {"retry_delay": retry_delay})


def sys_exit(failures: int) -> float:
    raise SystemExit(3)


class Unprintable:
    def __repr__(self) -> str:
        raise KeyboardInterrupt


def test_a_handler_says_how_long_a_retry_waits() -> None:
    handler = failing(lambda failures: 10.0 * failures)
    assert delayed(Failed("no"), handler, RUN) == Failed("no", delay_s=10.0)
    assert delayed(Failed("no"), handler, msgspec.structs.replace(RUN, failures=4)) == Failed("no", delay_s=50.0)


def test_what_is_final_or_has_a_delay_stays() -> None:
    handler = failing(lambda failures: 1)
    for outcome in (Failed("no", final=True), Failed("no", delay_s=5.0)):
        assert delayed(outcome, handler, RUN) is outcome


@pytest.mark.parametrize(
    "retry_delay",
    [
        sys_exit,
        lambda n: -1,
        lambda n: NAN,
        lambda n: True,
        lambda n: "5",
        lambda n: 10**11,
        lambda n: 1 / 0,
        lambda n: Unprintable(),
    ],
)
def test_a_delay_that_is_none_is_a_line_in_the_log_and_the_settings_count(retry_delay: Callable[[int], object]) -> None:
    with capture_logs() as logs:
        assert delayed(Failed("no"), failing(retry_delay), RUN) == Failed("no")
    assert [(line["event"], line["type"], line["job"]) for line in logs] == [
        ("retry_delay says no delay, the job's settings count", "resize", "id-1")
    ]


def test_none_leaves_it_to_the_settings() -> None:
    with capture_logs() as logs:
        assert delayed(Failed("no"), failing(lambda failures: None), RUN) == Failed("no")
    assert logs == []
