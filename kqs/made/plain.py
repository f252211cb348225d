"""Texts and numbers of classes of their own, as JSON has them: a kqs.Job is a str, a numpy.float64 a float."""

from __future__ import annotations


def plain(value: object) -> str | int | float:
    """Return the value without its class, for an encoder that knows no subclasses; no code of the class is run.

    Raises: TypeError: it is neither text nor number.
    """
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    raise TypeError(f"{type(value).__name__} is no JSON type")
