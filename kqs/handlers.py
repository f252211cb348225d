"""Handlers: the functions that run jobs, and what they are given.

`handler` registers a function for a type in `default_registry`; `kqs.modules` imports the modules that do so. A handler
ends a run by returning, or by raising `kqs.Again`, `kqs.Fail` or anything else (kqs.verdicts); what that makes of it is its
outcome (kqs.outcome). Nothing here runs a handler: that is kqs.executor. The registry is filled at start-up, by one thread.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any, NoReturn, TypeVar

import msgspec

from kqs.errors import KqsError
from kqs.job import Run
from kqs.made.models import is_model_class, json_validator
from kqs.made.progress import progress_of
from kqs.minding.command import Command
from kqs.options import TYPE_RULE, OptionFields, Options, expected, is_option, is_type
from kqs.words.nearest import unknown_name
from kqs.words.printable import shortened

_decode_json = msgspec.json.Decoder().decode  # integers keep every digit; 1e400 is refused, never made infinite


class HandlerError(KqsError):
    """A handler is declared wrongly; the message names its type, its place and the fault."""


def to_nobody(_context: JobContext) -> None:
    """Take in that a handler has saved something, where nobody keeps it."""


class JobContext(msgspec.Struct, gc=False, eq=False):
    """What a handler may know of its run, how it says that it is alive, and how far. Safe to use from any thread.

    Whoever watches the run reads `touched_at` (on `monotonic`'s clock, s) when the ttr seems to be over, and calls `end`
    when the run is: a touch is one store, without a lock, a timer or a hop to the loop. He is told by `on_save`, in whatever
    thread, that something was `saved` since he has last set `is_unsent` to False and then looked.
    """

    run: Run
    options: Options
    monotonic: Callable[[], float]
    touched_at: float = -math.inf
    is_over: bool = False
    on_save: Callable[[JobContext], None] = to_nobody
    saved: bytes | None = None
    is_unsent: bool = False

    @property
    def id(self) -> str:
        """Return the job's id."""
        return self.run.claim.id

    @property
    def type(self) -> str:
        """Return the job's type."""
        return self.run.type

    @property
    def attempt(self) -> int:
        """Return which run of the job this is, from 1."""
        return self.run.attempt

    @property
    def failures(self) -> int:
        """Return how many runs of the job have failed before."""
        return self.run.failures

    @property
    def ghosts(self) -> int:
        """Return how many runs of the job have vanished before, without a report."""
        return self.run.ghosts

    def touch(self) -> bool:
        """Give the run another `ttr` seconds from now; False when it is over already, and its report will be refused."""
        if self.is_over:
            return False
        self.touched_at = self.monotonic()
        return True

    @property
    def batch(self) -> Any:
        """Return how the jobs of the batch have ended whose `then` it is; None: it is none.

        It is a dict of `id`, `count`, `success`, `fail`, `cancelled`, `deleted`.
        """
        return None if self.run.batch is None else _decode_json(self.run.batch)

    @property
    def progress(self) -> Any:
        """Return what was saved last, in this run or an earlier one of the job; None: nothing.

        Raises: msgspec.DecodeError: it has a number that no float can hold, from a worker in another language.
        """
        said = self.run.progress if self.saved is None else self.saved
        return _decode_json(said) if said else None

    def save(self, value: object) -> bool:
        """Keep how far the run is, for whoever looks and for the job's next run, in the place of what was saved before.

        It is kept within a second, or with the end of the run. None takes back what was saved. It counts as a `touch`, and
        returns as that does.
        Raises: ValueError: it cannot be written as JSON, or takes more than MAX_PROGRESS_BYTES; nothing was changed.
        """
        return not self.is_over and self.keep(progress_of(value))

    def keep(self, progress: bytes) -> bool:
        """Do what `save` does with what `kqs.made.progress` has made of it."""
        if not self.touch():
            return False
        self.saved = progress
        if not self.is_unsent:
            self.is_unsent = True
            self.on_save(self)
        return not self.is_over

    def end(self) -> None:
        """Make every later `touch` return False. For the run's owner, not for handlers."""
        self.is_over = True


class Handler(msgspec.Struct, frozen=True, eq=False):
    """A registered function, or a command, whose function is then of no use.

    decode: turns the job's data (JSON bytes) into the first argument; raises msgspec.DecodeError or pydantic's
    ValidationError when it does not fit. wants_job: it takes a JobContext as second argument.
    options: names of OptionFields and checked values. place: "file:line", or where a command is set.
    retry_delay: told how many runs of a job have failed, says how long its retry is to wait, in s, in the place of the option.
    It is its author's, and may do anything.
    """

    type: str
    function: Callable[..., Any]
    decode: Callable[[bytes], Any]
    is_async: bool
    wants_job: bool
    options: dict[str, Any]
    place: str
    command: Command | None = None
    retry_delay: Callable[[int], object] | None = None


class Registry:
    """Handlers by type."""

    def __init__(self, handlers: Mapping[str, Handler] | None = None) -> None:
        self._handlers: dict[str, Handler] = dict(handlers or {})
        #: returns the handler of a type, or None
        self.get = self._handlers.get

    def add(self, type_: str, function: Callable[..., Any], options: Mapping[str, Any] | None = None) -> Handler:
        """Register `function` for `type_`, with the handler's own `options` (names of OptionFields, seconds).

        Raises: HandlerError: bad type, function, annotation or option, or the type is taken; nothing was registered.
        """
        place = _place(function)
        try:
            handler = _handler(type_, function, options or {}, place)
        except (TypeError, ValueError) as fault:
            raise HandlerError(f"handler {type_!r} ({place}): {fault}") from fault
        known = self._handlers.get(type_)
        if known is not None and known.place != place:  # the same place again is a module that was reloaded
            raise HandlerError(f"two handlers for type {type_!r}: {known.place} and {place}")
        self._handlers[type_] = handler
        return handler

    def remove(self, type_: str) -> bool:
        """Have no handler for a type. False: it had none."""
        return self._handlers.pop(type_, None) is not None

    def with_commands(self, commands: Mapping[str, Command]) -> Registry:
        """Return a registry with these beside the handlers that this one has now.

        Raises: HandlerError: a type has a handler.
        """
        both = Registry(self._handlers)
        for type_, command in commands.items():
            place = f"the command in [types.{type_}]"
            if (known := self._handlers.get(type_)) is not None:
                raise HandlerError(f"two handlers for type {type_!r}: {known.place} and {place}")
            both._handlers[type_] = Handler(type_, _run_command, msgspec.Raw, True, True, {}, place, command)
        return both

    @property
    def commands(self) -> dict[str, Command]:
        """Return {type: command} of those that are one."""
        return {handler.type: handler.command for handler in self._handlers.values() if handler.command is not None}

    @property
    def types(self) -> frozenset[str]:
        """Return the types that have a handler."""
        return frozenset(self._handlers)

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        """Return {type: the handler's own options}, as `Cascade.set_handler_options` takes them."""
        return {handler.type: dict(handler.options) for handler in self._handlers.values()}


default_registry = Registry()

_Function = TypeVar("_Function", bound=Callable[..., Any])


def handler(type_: str, **options: Any) -> Callable[[_Function], _Function]:
    """Register the decorated `async def` or plain `def` for jobs of type `type_`; it stays as it is.

    It takes `(data)` or `(data, job)`, where `job` is a JobContext. A pydantic model, a dataclass or a msgspec.Struct as
    annotation of the first parameter has the data checked and built as such; `msgspec.Raw` there gets the JSON as the client
    sent it, and anything else what JSON says: dict, list, str and so on. `options` are the
    handler's own defaults for its jobs (docs/handlers.md); `retry_delay` may be a function of how many runs have failed.

    Raises: HandlerError: as Registry.add, or used without parentheses.
    """
    if not isinstance(type_, str):
        raise HandlerError('@kqs.handler needs the type of its jobs: @kqs.handler("resize")')

    def register(function: _Function) -> _Function:
        default_registry.add(type_, function, options)
        return function

    return register


async def _run_command(_data: object, _job: JobContext) -> NoReturn:
    raise AssertionError("the executor runs commands by other means")


def _handler(type_: str, function: Callable[..., Any], options: Mapping[str, Any], place: str) -> Handler:
    _check_type(type_)
    wants_job = _wants_job(function)
    retry_delay = options.get("retry_delay")
    if callable(retry_delay):
        _check_retry_delay(retry_delay)
        options = {name: value for name, value in options.items() if name != "retry_delay"}
    return Handler(
        type=type_,
        function=function,
        decode=_decoder(function),
        is_async=inspect.iscoroutinefunction(function),
        wants_job=wants_job,
        options=_checked_options(options),
        place=place,
        retry_delay=retry_delay if callable(retry_delay) else None,
    )


def _check_retry_delay(function: Callable[..., object]) -> None:
    if inspect.iscoroutinefunction(function):
        raise TypeError("option 'retry_delay': a function must be a plain `def`, which returns seconds")
    try:
        inspect.signature(function).bind(1)
    except TypeError:
        raise TypeError("option 'retry_delay': a function takes (failures)") from None
    except ValueError:  # it is built in, and does not tell
        return


def _check_type(type_: object) -> None:
    if not isinstance(type_, str):
        raise TypeError(f"the type must be text, got {type_!r}; write @kqs.handler('name')")
    if not is_type(type_):
        raise ValueError(f"a type is {TYPE_RULE}")


def _wants_job(function: Callable[..., Any]) -> bool:
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError("a handler returns its result; it cannot yield")
    signature = inspect.signature(function)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    count = min(2, max(1, sum(parameter.kind in kinds for parameter in signature.parameters.values())))
    try:
        signature.bind(*[None] * count)
    except TypeError:
        raise TypeError(f"a handler takes (data) or (data, job), not {signature}") from None
    return count == 2


def _decoder(function: Callable[..., Any]) -> Callable[[bytes], Any]:
    annotation = _first_annotation(function)
    if annotation is msgspec.Raw:
        return msgspec.Raw
    if isinstance(annotation, type):
        if is_model_class(annotation):
            return _checked_decoder(annotation.model_validate_json)
        if issubclass(annotation, msgspec.Struct):
            return _checked_decoder(msgspec.json.Decoder(annotation).decode)
        if is_dataclass(annotation):
            return _checked_decoder(_dataclass_decoder(annotation))
    return _decode_json


def _dataclass_decoder(annotation: type) -> Callable[[bytes], Any]:
    try:
        return json_validator(annotation)
    except (NameError, TypeError) as fault:
        raise TypeError(f"the dataclass {annotation.__qualname__} cannot be built from JSON: {fault}") from fault


def _checked_decoder(validate_json: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def decode(data: bytes) -> Any:
        _decode_json(data)  # refuses a number out of range, which pydantic takes for infinity, wherever it stands
        return validate_json(data)

    return decode


def _first_annotation(function: Callable[..., Any]) -> Any:
    parameter = next(iter(inspect.signature(function).parameters.values()))
    annotation = parameter.annotation
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, inspect.unwrap(function).__globals__)  # noqa: S307 - the module's own text
    except Exception as fault:
        raise TypeError(f"cannot resolve the annotation {annotation!r} of {parameter.name!r} at run time: {fault}") from fault


def _checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in options.items():
        if name not in OptionFields.__struct_fields__:
            raise ValueError(unknown_name("option", name, OptionFields.__struct_fields__))
        if not is_option(name, value):
            raise ValueError(f"option {name!r} = {shortened(repr(value))}: expected {expected(OptionFields, name)}")
    return {name: value for name, value in options.items() if value is not None}


def _place(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    if code is None:
        return repr(function)
    return f"{code.co_filename}:{code.co_firstlineno}"
