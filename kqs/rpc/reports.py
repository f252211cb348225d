"""What remote workers say of their runs: the arguments of `touch`, `release` and `finish`, one run or a list of them. Pure.

A list is no transaction: each of its members stands for itself, so each is decoded by itself. msgspec only says whether one
fits; what does not is found by looking at each field alone, since its messages are no interface.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from kqs.errors import CallError
from kqs.executor.outcomes import MAX_RESULT_BYTES
from kqs.job import MAX_PROGRESS_BYTES, NO_PROGRESS, Returned
from kqs.made.values import MAX_LEVELS
from kqs.options import OptionFields, expected, is_option, prio_number
from kqs.outcome import Again, Failed, Ok, Outcome
from kqs.rpc.parsing import argument_of
from kqs.verdicts import MAX_DELAY_S
from kqs.wire import members, strict
from kqs.wire.call import NULL, Call
from kqs.wire.runs import MAX_ROOM
from kqs.wire.scan import SHORT_BYTES, runs
from kqs.wire.steps import Steps
from kqs.words.nearest import unknown_name

_NO_REASON = "the worker gave no reason"

T = TypeVar("T")


class Touch(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The run goes on. progress: how far it is; null: nothing is to be known of that any more."""

    run: str
    progress: Raw | UnsetType = UNSET


class Release(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The run is given back; it is begun again after `delay` s, at the job's place or that of `prio`. begun: by its worker."""

    run: str
    delay: float | None = None
    prio: int | str | None = None
    begun: bool = True


class Finish(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The run is over."""

    run: str
    report: Literal["ok", "again", "fail"]
    result: Raw = NULL
    reason: str | None = None
    delay: float | None = None
    final: bool | None = None


_EXPECTED = {
    "run": (str, "the token of a run"),
    "report": (Literal["ok", "again", "fail"], '"ok", "again" or "fail"'),
    "result": (Raw, "any value"),
    "progress": (Raw, "any value"),
    "reason": (str | None, "a text"),
    "delay": (float | None, f"seconds from 0 to {MAX_DELAY_S}"),
    "final": (bool | None, "true or false"),
    "prio": (int | str | None, expected(OptionFields, "prio")),
    "begun": (bool, "true or false"),
}
#: what may be long; the other fields are refused where they are, before they are decoded
_LONG = {"result", "progress", "reason"}
#: which of the fields belong to which report
_ALLOWED = {"ok": {"result"}, "again": {"delay"}, "fail": {"reason", "delay", "final"}}

_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_field: dict[str, Callable[[bytes], Any]] = {
    name: msgspec.json.Decoder(type_).decode for name, (type_, _) in _EXPECTED.items()
}


class Members(NamedTuple, Generic[T]):
    """What a call was given, each as it was sent, or read if it is plain. is_list: the answer is one too."""

    texts: Sequence[Raw | T]
    is_list: bool


class Reader(Generic[T]):
    """Reads the arguments of one call."""

    def __init__(self, struct: type[T], check: Callable[[T], None]) -> None:
        """Args: check: raises CallError for what a type cannot say."""
        self._decode = msgspec.json.Decoder(struct).decode
        self._decode_all: Callable[[bytes], list[T]] = msgspec.json.Decoder(list[struct]).decode  # type: ignore[valid-type]  # named at run time
        self._names = struct.__struct_fields__  # type: ignore[attr-defined]  # of a msgspec.Struct
        self._check = check
        self._keys = members.Reader(*self._names)
        self._fewest = len(self._names) - len(struct.__struct_defaults__)  # type: ignore[attr-defined]  # of a msgspec.Struct

    def members(self, call: Call) -> Steps[Members[T]]:
        """Return, in steps, what a call was given. Raises: CallError: it is neither a run nor a list, or too long a list."""
        text = argument_of(call)
        if text.startswith(b"{"):
            return Members([call.arg], False)
        if not text.startswith(b"["):
            raise CallError(f"{call.name} takes an object, or a list of them, got {strict.shown(text)}")
        texts: list[Raw | T] = []
        for run in runs(text):
            if run is not None:
                texts += self._plain(run[1]) or _decode_list(run[1])
                if len(texts) > MAX_ROOM:
                    raise CallError(f"{call.name} takes a list of at most {MAX_ROOM}, got more", "too_large")
            yield
        return Members(texts, True)

    def _plain(self, text: bytes) -> list[T]:
        """Return what a list of members says if each has the fields that it needs, once, and no others, as most do; else [].

        A member that decodes has each of these at least once, and each time takes a colon: as many colons as that, and none is
        repeated, none is beside them, and none stands in a text. There is nothing left to check then.
        """
        if len(text) > SHORT_BYTES:  # which one of them makes it
            return []
        try:
            read = self._decode_all(text)
        except msgspec.DecodeError:
            return []
        return read if text.count(b":") == self._fewest * len(read) else []

    def reading(self, text: Raw | T) -> Steps[T | CallError]:
        """Return, in steps, what one of `members` says, or why it says nothing."""
        if not isinstance(text, Raw):
            return text
        try:
            if len(text) > SHORT_BYTES:
                yield from self._checking_long(bytes(text))
            elif (short := bytes(text)).count(b":") > self._fewest and short.startswith(b"{"):
                yield from members.checking_keys(short, self._keys)  # with no more members than it needs, none is repeated
        except CallError as error:
            return error.with_traceback(None)  # which would hold the text
        return self._read(text)

    def _checking_long(self, text: bytes) -> Steps[None]:
        """See, in steps, that a long text is the few fields at most once each: to decode any number takes long.

        Raises: CallError: it is not.
        """
        if not text.startswith(b"{"):
            raise CallError(f"expected an object, got {strict.shown(text)}")
        for member in members.walking_known(text, self._names):
            if member is None:
                yield
            elif member.key not in _LONG and member.end - member.value_start > SHORT_BYTES:
                raise CallError(_misfit(member.key, text[member.value_start : member.end]))

    def _read(self, text: Raw) -> T | CallError:
        try:
            value = self._decode(text)
            self._check(value)
        except CallError as error:
            return error.with_traceback(None)  # which would hold the text
        except msgspec.DecodeError:
            return CallError(self._fault(text))
        return value

    def _fault(self, text: bytes | Raw) -> str:
        """Return why `text` does not fit."""
        try:
            found = _decode_object(text)
        except msgspec.DecodeError:
            return f"expected an object, got {strict.shown(bytes(text))}"
        for name, raw in found.items():
            if name not in self._names:
                return unknown_name("field", name, self._names)
            try:
                _decode_field[name](raw)
            except msgspec.DecodeError:
                return _misfit(name, raw)
        missing = next(name for name in ("run", "report") if name in self._names and name not in found)
        return f"{missing}: expected {_EXPECTED[missing][1]}, got nothing"


def _misfit(name: str, value: bytes | Raw) -> str:
    return f"{name}: expected {_EXPECTED[name][1]}, got {strict.shown(bytes(value))}"


def _check_delay(delay: float | None) -> None:
    if delay is not None and not 0 <= delay <= MAX_DELAY_S:
        raise CallError(f"delay: expected {_EXPECTED['delay'][1]}, got {delay:g}")


def _check_touch(one: Touch) -> None:
    if one.progress is UNSET:
        return
    if len(one.progress) > MAX_PROGRESS_BYTES:
        raise CallError(f"progress: expected at most {MAX_PROGRESS_BYTES} bytes, got {len(one.progress)}", "too_large")
    if strict.is_deeper(bytes(one.progress), MAX_LEVELS):
        raise CallError(f"progress: expected at most {MAX_LEVELS} levels of arrays and objects")


def _check_release(one: Release) -> None:
    _check_delay(one.delay)
    if one.prio is not None and not is_option("prio", one.prio):
        raise CallError(f"prio: expected {_EXPECTED['prio'][1]}, got {strict.shown(_encode(one.prio))}")
    if not one.begun and (one.delay is not None or one.prio is not None):
        raise CallError("begun: a run that never began leaves its job as it was, and takes neither delay nor prio")


def _check_finish(one: Finish) -> None:
    if one.report == "ok" and one.reason is None and one.delay is None and one.final is None and one.result == NULL:
        return  # as most are
    _check_delay(one.delay)
    given = {name for name in ("reason", "delay", "final") if getattr(one, name) is not None}
    if one.result != NULL:
        given.add("result")
    if extra := sorted(given - _ALLOWED[one.report]):
        raise CallError(f'{extra[0]}: does not belong to a report of "{one.report}"')
    if len(one.result) > MAX_RESULT_BYTES:
        raise CallError(f"result: expected at most {MAX_RESULT_BYTES} bytes, got {len(one.result)}", "too_large")


TOUCHES = Reader(Touch, _check_touch)
RELEASES = Reader(Release, _check_release)
FINISHES = Reader(Finish, _check_finish)


def end_of(one: Release) -> Returned | None:
    """Return what a release means; None: the run never began."""
    if not one.begun:
        return None
    prio = None if one.prio is None else prio_number(one.prio)
    return Returned(one.delay or 0.0, prio)


def progress_in(one: Touch) -> bytes:
    """Return how far a run is, as it is kept."""
    return NO_PROGRESS if one.progress is UNSET or one.progress == NULL else bytes(one.progress)


def outcome_of(one: Finish) -> Outcome:
    """Return what a report means."""
    if one.report == "ok":
        return Ok(None if one.result == NULL else bytes(one.result))
    if one.report == "again":
        return Again(one.delay)
    return Failed(one.reason or _NO_REASON, bool(one.final), one.delay)
