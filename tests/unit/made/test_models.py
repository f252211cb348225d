"""pydantic is known where handlers and programs use it, and imported for nobody else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest
from pydantic import BaseModel, ValidationError

from kqs.made.models import is_misfit, is_model, is_model_class, json_validator


class Size(BaseModel):
    width: int


@dataclass
class Point:
    x: int


def test_models_and_their_faults_are_known() -> None:
    assert is_model(Size(width=1))
    assert is_model_class(Size)
    with pytest.raises(ValidationError) as caught:
        Size.model_validate({"width": "wide"})
    assert is_misfit(caught.value)


@pytest.mark.parametrize("value", [None, 5, "text", {"width": 1}, Point(1), ValueError()])
def test_nothing_else_is_one(value: object) -> None:
    assert not is_model(value)
    assert not is_model_class(type(value))
    assert not isinstance(value, ValueError) or not is_misfit(value)


def test_a_dataclass_is_made_from_json() -> None:
    assert json_validator(Point)(b'{"x":3}') == Point(3)


def test_what_is_no_data_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        json_validator(subprocess.Popen)


def test_where_nobody_has_imported_pydantic_nothing_is_a_model() -> None:
    program = "import sys, kqs.made.models as m; print(m.is_model(5), m.is_misfit(ValueError()), 'pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "False"]
