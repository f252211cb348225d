"""What a program gives as a job's data, and which type of job it means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints

import msgspec

from kqs.errors import CallError
from kqs.handlers import default_registry
from kqs.made.models import json_validator
from kqs.made.values import written
from kqs.wire.lines import DEFAULT_LINE_BYTES

#: longer data fits no line
MAX_DATA_BYTES = DEFAULT_LINE_BYTES


def data_of(value: object, most_bytes: int = MAX_DATA_BYTES) -> msgspec.Raw:
    """Return data as JSON: of plain values, dataclasses, msgspec structs, and pydantic models as `model_dump` gives them.

    Raises: CallError: `bad_job`: it is none of these, or has a number that JSON has no word for.
    """
    try:
        return msgspec.Raw(written(value, most_bytes))
    except (TypeError, ValueError, RecursionError) as error:
        raise CallError(f"data: {error}", "bad_job") from None


def type_of(target: str | Callable[..., Any], added: Callable[[Callable[..., Any]], str | None]) -> str:
    """Return the type of the jobs that a handler runs, or the type itself.

    Args: added: tells the type of a function that was added to this queue; of others `@kqs.handler` tells it.
    Raises: ValueError: the function runs jobs of no type.
    """
    if isinstance(target, str):
        return target
    found = added(target) or next((one for one in default_registry.types if _runs(one, target)), None)
    if found is None:
        name = getattr(target, "__qualname__", repr(target))
        raise ValueError(
            f"{name} is no handler here: add it with add_handler, or decorate it with @kqs.handler, or name a type"
        )
    return found


def _runs(type_: str, function: Callable[..., Any]) -> bool:
    handler = default_registry.get(type_)
    return handler is not None and handler.function is function


def result_of(target: str | Callable[..., Any], result: Any) -> Any:
    """Return a job's result as its handler has returned it, by the handler's annotation; without one, as JSON says it.

    Raises: ValueError: it does not fit the annotation.
    """
    try:
        annotation = Any if isinstance(target, str) else get_type_hints(target).get("return", Any)
        if annotation is Any:
            return result
        validate_json = json_validator(annotation)
    except (NameError, TypeError):  # a name that only type checkers know, or no type of data
        return result
    return validate_json(msgspec.json.encode(result))
