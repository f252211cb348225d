"""pydantic, which handlers and programs may use: imported where they do, since it is a third of what a server would import.

A value can be a model of it, and a fault one of its own, only where somebody has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from pydantic import BaseModel


def is_model(value: object) -> TypeGuard[BaseModel]:
    """Tell whether a value is a pydantic model."""
    return is_model_class(type(value))


def is_model_class(kind: type) -> TypeGuard[type[BaseModel]]:
    """Tell whether a class is one of pydantic models."""
    return "pydantic" in sys.modules and issubclass(kind, sys.modules["pydantic"].BaseModel)


def is_misfit(fault: BaseException) -> bool:
    """Tell whether pydantic says with `fault` that data does not fit."""
    return "pydantic_core" in sys.modules and isinstance(fault, sys.modules["pydantic_core"].ValidationError)


def json_validator(annotation: Any) -> Callable[[bytes], Any]:
    """Return what makes of JSON a value as annotated, or raises ValueError.

    Raises: NameError, TypeError: nothing can: a name that only type checkers know, or no type of data.
    """
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        return TypeAdapter[Any](annotation).validate_json
    except PydanticUserError as fault:
        raise TypeError(str(fault)) from fault
