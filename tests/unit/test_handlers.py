from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel, ValidationError

import kqs
from kqs import handlers
from kqs.handlers import HandlerError, JobContext, Registry
from kqs.job import Claim, Run
from kqs.options import Options


class Size(BaseModel):
    width: int
    scale: float = 1.0


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    fresh = Registry()
    monkeypatch.setattr(handlers, "default_registry", fresh)
    return fresh


def test_the_decorator_registers_and_leaves_the_function_as_it_is(registry: Registry) -> None:
    @kqs.handler("resize", ttr=5, prio="high")
    async def resize(data: Any) -> None: ...

    found = registry.get("resize")
    assert found is not None
    assert (found.function, found.is_async, found.wants_job) == (resize, True, False)
    assert registry.types == {"resize"}
    assert registry.options == {"resize": {"ttr": 5, "prio": "high"}}
    assert registry.get("other") is None


def test_a_plain_def_may_take_the_job_too(registry: Registry) -> None:
    def resize(data: Any, job: JobContext) -> None: ...

    found = registry.add("resize", resize)
    assert (found.is_async, found.wants_job) == (False, True)


def test_an_option_that_is_none_leaves_the_default(registry: Registry) -> None:
    assert registry.add("a", lambda data: None, {"ttr": None}).options == {}


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"tttr": 5}, 'unknown option "tttr"; the nearest known one is "ttr"'),
        ({"ttr": "5"}, "option 'ttr' = '5': expected a number of seconds from 0.1 to 2147483648"),
        ({"ttr": 0}, "option 'ttr' = 0: expected a number of seconds from 0.1 to 2147483648"),
        ({"expire": float("inf")}, "option 'expire' = inf: expected a number of seconds > 0 and <= 10000000000"),
        ({"keep": float("nan")}, "option 'keep' = nan: expected a number of seconds from 0 to 10000000000, or -1 for ever"),
        ({"time_limit": 1e308}, "option 'time_limit' = 1e+308: expected a number of seconds > 0 and <= 10000000000"),
        ({"prio": "soon"}, "option 'prio' = 'soon': expected an integer from 0 to 4294967295 or \"bulk\" or"),
    ],
)
def test_a_wrong_option_is_named(registry: Registry, options: dict[str, Any], fault: str) -> None:
    with pytest.raises(HandlerError) as caught:
        registry.add("resize", lambda data: None, options)
    assert str(caught.value).startswith(f"handler 'resize' ({__file__}:")
    assert fault in str(caught.value)
    assert not registry.types


def no_arguments() -> None: ...
def three_arguments(data: Any, job: Any, more: Any) -> None: ...
def needs_keyword(data: Any, *, more: Any) -> None: ...
def yields(data: Any) -> Iterator[int]:
    yield 1


async def yields_async(data: Any) -> Any:
    yield 1


def unresolvable(data: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821 - the test is that nobody knows it


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (no_arguments, "a handler takes (data) or (data, job), not ()"),
        (three_arguments, "a handler takes (data) or (data, job)"),
        (needs_keyword, "a handler takes (data) or (data, job)"),
        (yields, "it cannot yield"),
        (yields_async, "it cannot yield"),
        (unresolvable, "cannot resolve the annotation 'Nowhere' of 'data'"),
        (5, "5 is not a callable object"),
    ],
)
def test_a_function_that_is_no_handler_is_refused(registry: Registry, function: Any, fault: str) -> None:
    with pytest.raises(HandlerError, match="handler 'resize'") as caught:
        registry.add("resize", function)
    assert fault in str(caught.value)


@pytest.mark.parametrize("type_", ["", "a\nb", "é" * 101, no_arguments])
def test_a_type_that_no_job_can_have_is_refused(registry: Registry, type_: Any) -> None:
    with pytest.raises(HandlerError):
        registry.add(type_, lambda data: None)


def test_a_decorator_without_its_type_is_refused() -> None:
    with pytest.raises(HandlerError, match="needs the type of its jobs"):
        kqs.handler(no_arguments)  # type: ignore[arg-type]  # as a checker says too


def test_two_handlers_for_one_type_are_an_error_naming_both_places(registry: Registry) -> None:
    def first(data: Any) -> None: ...

    def second(data: Any) -> None: ...

    places = [f"{__file__}:{function.__code__.co_firstlineno}" for function in (first, second)]
    registry.add("resize", first)
    with pytest.raises(HandlerError) as caught:
        registry.add("resize", second)
    assert str(caught.value) == f"two handlers for type 'resize': {places[0]} and {places[1]}"


def decoded(registry: Registry, function: Any, data: bytes) -> Any:
    return registry.add("resize", function).decode(data)


def test_data_is_decoded_json_with_every_digit_of_an_integer(registry: Registry) -> None:
    assert decoded(registry, lambda data: None, b'{"n":123456789012345678901}') == {"n": 123456789012345678901}


def takes_size(size: Size) -> None: ...
def takes_raw(data: msgspec.Raw) -> None: ...


def test_a_model_gets_validated_data(registry: Registry) -> None:
    assert decoded(registry, takes_size, b'{"width":3}') == Size(width=3)
    with pytest.raises(ValidationError, match="width"):
        decoded(registry, takes_size, b'{"width":"wide"}')


@dataclass
class Corner:
    x: int


@dataclass
class Box:
    corners: list[Corner]
    name: str = "box"


class Packed(msgspec.Struct):
    width: int


@dataclass
class Odd:
    registry: Registry


def takes_box(box: Box) -> None: ...
def takes_packed(packed: Packed) -> None: ...


def test_a_dataclass_and_a_struct_get_validated_data(registry: Registry) -> None:
    assert decoded(registry, takes_box, b'{"corners":[{"x":1}]}') == Box([Corner(1)])
    with pytest.raises(ValidationError, match="x"):
        decoded(registry, takes_box, b'{"corners":[{"x":"left"}]}')
    assert decoded(Registry(), takes_packed, b'{"width":3}') == Packed(3)
    with pytest.raises(msgspec.DecodeError, match="width"):
        decoded(Registry(), takes_packed, b'{"width":"wide"}')


def test_a_dataclass_that_json_cannot_fill_is_refused(registry: Registry) -> None:
    def takes_odd(odd: Odd) -> None: ...

    with pytest.raises(HandlerError, match="Odd cannot be built from JSON"):
        registry.add("odd", takes_odd)


def test_raw_gets_the_bytes_as_sent(registry: Registry) -> None:
    assert bytes(decoded(registry, takes_raw, b'{"a":1.0e2}')) == b'{"a":1.0e2}'


@pytest.mark.parametrize("function", [takes_size, takes_box, takes_packed, no_arguments])
def test_a_number_out_of_range_is_refused_never_made_infinite(registry: Registry, function: Any) -> None:
    function = (lambda data: None) if function is no_arguments else function
    with pytest.raises(msgspec.DecodeError, match="out of range"):
        decoded(registry, function, b'{"width":1,"scale":1e400}')


def test_a_context_tells_of_the_run_and_writes_touches_down() -> None:
    time = [5.0]
    context = JobContext(Run(Claim(7, "id-7", 3, 1), "resize", 1, b"", None, 1, 2), Options(), lambda: time[0])
    assert (context.id, context.type, context.attempt, context.failures, context.ghosts) == ("id-7", "resize", 3, 1, 2)
    assert context.touch()
    assert context.touched_at == 5.0
    time[0] = 6.0
    context.end()
    assert not context.touch()
    assert context.touched_at == 5.0


def test_kqs_exports_what_handlers_need_and_nothing_unknown() -> None:
    assert [getattr(kqs, name) for name in kqs.__all__]
    with pytest.raises(AttributeError):
        _ = kqs.nothing


async def seconds(failures: int) -> float:
    return 1.0


def test_retry_delay_may_be_a_function(registry: Registry) -> None:
    handler = registry.add("mail", lambda data: data, {"retry_delay": float, "retries": 3})
    assert (handler.retry_delay, handler.options) == (float, {"retries": 3})
    assert registry.add("sms", lambda data: data, {"retry_delay": 3}).retry_delay is None


@pytest.mark.parametrize("retry_delay", [seconds, lambda: 1, lambda failures, job: 1])
def test_a_retry_delay_that_cannot_be_called_is_refused(registry: Registry, retry_delay: Any) -> None:
    with pytest.raises(HandlerError, match="option 'retry_delay': a function"):
        registry.add("mail", lambda data: data, {"retry_delay": retry_delay})
