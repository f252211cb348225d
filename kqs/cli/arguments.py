"""What commands take: JSON from a person's keyboard, and the server's address."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from kqs.options import MAX_SECONDS
from kqs.words.printable import shortened

if TYPE_CHECKING:
    from kqs.client import Address

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])

#: of an object, an array and a string
_BEGINNINGS = ("{", "[", '"')


def as_json(text: str) -> bytes:
    """Return `text` as one line of JSON: JSON as it stands, JSON5 translated, anything else as a string.

    Raises: click.UsageError: it has a value that JSON cannot express, or begins as JSON and is none: a slip, and no text.
    """
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise click.UsageError("the argument is not UTF-8") from None
    try:
        return msgspec.json.format(raw, indent=-1) if _is_json(raw) else _from_json5(text)
    except RecursionError:
        raise click.UsageError("the argument is nested too deeply") from None


def _is_json(raw: bytes) -> bool:
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except msgspec.DecodeError:
        return False
    return True


def _from_json5(text: str) -> bytes:
    import json5

    try:
        value = json5.loads(text)
    except ValueError:
        if text.lstrip().startswith(_BEGINNINGS):
            raise click.UsageError(f"expected JSON or JSON5, got {shortened(text)}; in quotes it is a string") from None
        value = text
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as exc:
        raise click.UsageError(f"the argument cannot be sent as JSON: {exc}") from None


class Number(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """A number: neither `inf` nor `nan`, which JSON has no word for."""

    name = what = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or fail as click does."""
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{value!r} is no {self.what}", param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite {self.what}", param, ctx)
        return number


class Seconds(Number):
    """A number of seconds that a clock can count."""

    name = "seconds"
    what = "number of seconds"


class SecondsWithin(Seconds):
    """A number of seconds from a least one, or above 0, up to a most."""

    def __init__(self, most: int = MAX_SECONDS, *, least: float | None = None) -> None:
        """Args: least: None: all above 0 will do."""
        self._most = most
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or fail as click does."""
        number = super().convert(value, param, ctx)
        least = self._least
        if number > self._most or (number <= 0 if least is None else number < least):
            within = f"above 0 and up to {self._most}" if least is None else f"from {least} to {self._most}"
            self.fail(f"expected a number of seconds {within}, got {value}", param, ctx)
        return number


class WholeNumber(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """A whole number, perhaps not below a least one."""

    name = "number"

    def __init__(self, least: int | None = None) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number, or fail as click does."""
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is no whole number", param, ctx)
        if self._least is not None and number < self._least:
            self.fail(f"expected a whole number from {self._least}, got {number}", param, ctx)
        return number


class YesOrNo(click.types.BoolParamType):
    """True or false, in the words that click knows for them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        """Return which, or fail as click does."""
        try:
            return bool(super().convert(value, param, ctx))
        except click.BadParameter:
            self.fail(f"{value!r} is neither true nor false", param, ctx)


class ServerAddress(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """`HOST:PORT`, `HOST`, `:PORT` or `unix:PATH`."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        """Return the Address, or fail as click does."""
        from kqs.client import parse_address

        if not isinstance(value, str):
            found: Address = value
            return found
        try:
            return parse_address(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


def server_option(command: AnyFunction, name: str = "--server") -> AnyFunction:
    """Give a command --server, or an option of another name, passed as `server: Address`."""
    return click.option(
        name,
        "server",
        type=ServerAddress(),
        envvar="KQS_SERVER",
        default="localhost:14151",
        show_default=True,
        show_envvar=True,
        help="HOST:PORT or unix:PATH of the server.",
    )(command)


def json_option(command: AnyFunction) -> AnyFunction:
    """Give a command --json, passed as `as_lines`."""
    return click.option("--json", "as_lines", is_flag=True, help="Print JSON lines, for programs.")(command)
