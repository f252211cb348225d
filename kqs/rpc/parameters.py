"""The arguments of the calls that are not on the hot path, as structs; messages about them name the field."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from kqs.config import LEAST_PER_S, MAX_PER_S, MAX_RATE, MAX_RUNNING
from kqs.errors import CallError
from kqs.filter import Filter, Pattern
from kqs.job import STATES_BY_WORD, WAITING, State
from kqs.nearest import unknown_name
from kqs.options import (
    MAX_ID_CHARACTERS,
    MAX_SECONDS,
    MAX_TYPE_BYTES,
    MAX_WAIT_S,
    CatchUp,
    Overlap,
    expected,
    field_types,
    is_type,
)
from kqs.schedules.calendar import MAX_CRON_CHARACTERS
from kqs.store.ticks import MAX_NAME_CHARACTERS
from kqs.wire import strict
from kqs.wire.call import POSITIONAL, Call
from kqs.wire.members import check_keys
from kqs.wire.runs import MAX_TYPES

#: Longest argument of these calls, in bytes: a dozen names, each of their characters escaped.
MAX_ARGUMENT_BYTES = 80 * MAX_TYPE_BYTES
#: Ids that one call names; and the longest argument that names so many, or types, in bytes, with what stands beside them.
MAX_IDS = 1000
TYPES_BYTES = MAX_TYPES * MAX_TYPE_BYTES * 4 // 3
_FILTER_BYTES = MAX_IDS * MAX_ID_CHARACTERS * 4 // 3
#: Faults told of one argument.
_MAX_FAULTS = 5

_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all arguments: unknown fields are refused, and nothing is coerced."""

    MAX_BYTES: ClassVar[int] = MAX_ARGUMENT_BYTES
    #: a list is the argument itself, not parameters by position
    TAKES_LIST: ClassVar[bool] = False
    #: how many may come by position; None: all, if there is no more than one
    BY_POSITION: ClassVar[int | None] = None
    #: the field that is meant where text stands in the place of an object
    BARE: ClassVar[str | None] = None
    #: by field, what raises ValueError for a value that its type allows and that cannot be
    RULES: ClassVar[Mapping[str, Callable[[Any], None]]] = {}

    @classmethod
    def spread(cls, value: Any) -> Any:
        """Return the fields that an argument means which may be no object."""
        return {cls.BARE: value} if cls.BARE is not None and isinstance(value, str) else value

    def check(self) -> None:
        """Raises: ValueError: the fields do not go together."""


def _type(name: str | None) -> None:
    if name and not is_type(name):
        raise ValueError("no job can be of this type")


#: what names a type, a resource, a group; the rest of the rule, for one that may be, is `_type`
_Text = Annotated[str, Meta(min_length=1, max_length=MAX_TYPE_BYTES)]
_Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARACTERS)]


class NoQuery(Parameters, frozen=True, kw_only=True):
    """No argument: nothing, null, or an empty object."""


class IdQuery(Parameters, frozen=True, kw_only=True):
    """Argument of `explain`: the id as a string, or an object with `id`."""

    BARE = "id"
    BY_POSITION = 1

    id: _Id


class JobQuery(IdQuery, frozen=True, kw_only=True):
    """Argument of `job`: as of `explain`. wait: how long to wait for the job's end, in s."""

    wait: Annotated[float, Meta(ge=0, le=MAX_WAIT_S)] = 0.0


class TypeQuery(Parameters, frozen=True, kw_only=True):
    """Argument of `suspend` and `resume`: a type as a string, or an object with `type`."""

    RULES = {"type": _type}
    BARE = "type"

    type: _Text


class SubjectQuery(TypeQuery, frozen=True, kw_only=True):
    """Argument of `suspend` and `resume`: a type, as a string or in an object; or a schedule."""

    BY_POSITION = 1

    type: _Text = ""
    schedule: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARACTERS)] | None = None

    def check(self) -> None:
        """See Parameters."""
        if not self.type and not self.schedule:
            raise ValueError("names no type and no schedule")
        if self.type and self.schedule:
            raise ValueError("names a type and a schedule, expected one of them")


_ScheduleName = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARACTERS)]


class NameQuery(Parameters, frozen=True, kw_only=True):
    """Argument of `fire`: a schedule's name as a string, or an object with `name`."""

    BARE = "name"
    BY_POSITION = 1

    name: _ScheduleName


class UnscheduleQuery(NameQuery, frozen=True, kw_only=True):
    """Argument of `unschedule`. force: also what another server's config has."""

    force: bool = False


class SchedulesQuery(Parameters, frozen=True, kw_only=True):
    """Argument of `schedules`. next: how many instants of each; `after`: the last name already seen; `limit`: 1..1000."""

    name: _ScheduleName | None = None
    next: Annotated[int, Meta(ge=0, le=100)] = 1
    after: _ScheduleName | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class ScheduleQuery(Parameters, frozen=True, kw_only=True):
    """Argument of `schedule`, but for its job, whose bytes stay as they are."""

    BY_POSITION = 2

    name: _ScheduleName
    cron: Annotated[str, Meta(max_length=MAX_CRON_CHARACTERS)] | None = None
    every: float | None = None
    from_: float | str | None = msgspec.field(name="from", default=None)
    tz: str = "UTC"
    catch_up: CatchUp = "one"
    overlap: Overlap = "allow"


class LimitQuery(Parameters, frozen=True, kw_only=True):
    """Argument of `limit`. A limit that is null is lifted, one that is left out stays as it is; or `reset` alone."""

    RULES = {"type": _type}

    type: _Text
    concurrency: Annotated[int, Meta(ge=0, le=MAX_RUNNING)] | UnsetType | None = UNSET
    max_running: Annotated[int, Meta(ge=0, le=MAX_RUNNING)] | UnsetType | None = UNSET
    rate: Annotated[float, Meta(gt=0, le=MAX_RATE)] | UnsetType | None = UNSET
    per_s: Annotated[float, Meta(ge=LEAST_PER_S, le=MAX_PER_S)] | UnsetType = UNSET
    reset: bool = False

    @property
    def named(self) -> dict[str, Any]:
        """Return the limits that were given, null ones too."""
        limits = {name: getattr(self, name) for name in ("concurrency", "max_running", "rate", "per_s")}
        return {name: limit for name, limit in limits.items() if limit is not UNSET}

    def check(self) -> None:
        """See Parameters."""
        if self.reset and self.named:
            raise ValueError("reset takes back what was said, so no limit goes beside it")
        if not self.reset and not self.named:
            raise ValueError("names no limit: concurrency, max_running, rate, per_s, or reset")


class ConfigureQuery(Parameters, frozen=True, kw_only=True):
    """Argument of `configure`. An option that is null is taken back, one that is left out stays; no type: all types."""

    RULES = {"type": _type}

    type: _Text | None = None
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    reset: bool = False

    def check(self) -> None:
        """See Parameters."""
        if self.reset and self.options:
            raise ValueError("reset takes back what was said, so no options go beside it")


class SubscriptionQuery(Parameters, frozen=True, kw_only=True):
    """Argument of `subscribe` and `unsubscribe`."""

    RULES = {"type": _type, "subscriber": _type}

    type: _Text
    subscriber: _Text


class States(frozenset[State]):
    """States, given as a word or a list of words."""

    @classmethod
    def of(cls, words: object) -> States:
        """Raises: ValueError."""
        if words == []:
            raise ValueError("names no state")
        return cls(map(_state, words if isinstance(words, list) else [words]))


def _state(word: object) -> State:
    if isinstance(word, str) and word in STATES_BY_WORD:
        return STATES_BY_WORD[word]
    raise ValueError(f"must be one of {', '.join(STATES_BY_WORD)}")


def _own(kind: type, value: object) -> Any:
    """Return the `value` of a field whose type is ours. Raises: ValueError: it is none."""
    if kind is States:
        return States.of(value)
    if not isinstance(value, str):
        raise ValueError("expected text")
    return Pattern(value)


class FilterQuery(Parameters, frozen=True, kw_only=True):
    """Which jobs are meant: all that is given must be so of them. older_than: s since their acceptance. match: RE2."""

    MAX_BYTES = _FILTER_BYTES

    id: _Id | None = None
    ids: Annotated[list[_Id], Meta(max_length=MAX_IDS)] | None = None
    type: _Text | None = None
    state: States | None = None
    resource: _Text | None = None
    group: _Text | None = None
    older_than: Annotated[float, Meta(ge=0, le=MAX_SECONDS)] | None = None
    match: Pattern | None = None

    def filter(self, now: float) -> Filter:
        """Return the filter. now: Unix seconds."""
        ids = None
        if self.id is not None or self.ids is not None:
            ids = (*([] if self.id is None else [self.id]), *(self.ids or ()))
        before = None if self.older_than is None else now - self.older_than
        return Filter(ids, self.type, self.state, self.resource, before, self.match, self.group)


class JobsQuery(FilterQuery, frozen=True, kw_only=True):
    """Argument of `jobs`. `after`: the id of the last job already seen; `limit`: 1..1000 jobs; `newest`: those first.

    cursor: where the last page ended, which answers with the next one; empty: the first.
    """

    after: _Id | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    newest: bool = False
    cursor: (
        Annotated[str, Meta(pattern=r"^([0-7]?[0-9a-f]{1,15})?\Z", extra_json_schema={"expected": "one that was answered"})]
        | None
    ) = None

    def check(self) -> None:
        """See Parameters."""
        if self.after is not None and self.cursor is not None:
            raise ValueError("after, cursor: expected one of them")


class ChangeQuery(FilterQuery, frozen=True, kw_only=True):
    """Argument of `cancel` and `retry`: an id, a list of ids, or a filter, which must not be empty unless `all` says so.

    progress: say now and then how far it is.
    """

    TAKES_LIST = True
    BARE = "id"

    all: bool = False
    dry_run: bool = False
    progress: bool = False

    @classmethod
    def spread(cls, value: Any) -> Any:
        """See Parameters."""
        if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], str):
            value = value[0]  # the one parameter of JSON-RPC, by position
        if isinstance(value, list):
            return {"ids": value}
        return super().spread(value)

    def check(self) -> None:
        """See Parameters."""
        if not self.all and all(getattr(self, name) is None for name in FilterQuery.__struct_fields__):
            raise ValueError('name jobs by id, ids, type, state, resource, group, older_than or match, or say {"all":true}')


class DeleteQuery(ChangeQuery, frozen=True, kw_only=True):
    """Argument of `delete`. force: running jobs too."""

    force: bool = False


class PurgeQuery(Parameters, frozen=True, kw_only=True):
    """Argument of `purge`. regex: as `match`."""

    type: _Text
    regex: Pattern | None = None
    dry_run: bool = False
    progress: bool = False

    def filter(self) -> Filter:
        """Return the filter."""
        return Filter(type=self.type, states=WAITING, match=self.regex)


class TypesQuery(Parameters, frozen=True, kw_only=True):
    """Argument of `types`. `after`: the last type already seen; `limit`: 1..1000 types."""

    type: _Text | None = None
    after: _Text | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class HelpQuery(Parameters, frozen=True, kw_only=True):
    """Argument of `help`: a call's name as a string, or nothing."""

    BARE = "name"

    name: str | None = None


AnyParameters = TypeVar("AnyParameters", bound=Parameters)


def argument_of(call: Call, most_bytes: int | None = None) -> bytes:
    """Return the argument of `call`, as JSON. Raises: CallError: it is binary data, or longer than so many bytes."""
    if call.blob is not None:
        raise CallError(f"{call.name} takes no binary data")
    if most_bytes is not None and len(call.arg) > most_bytes:
        raise CallError(f"argument: expected at most {most_bytes} bytes, got {len(call.arg)}")
    return bytes(call.arg)


def parse(model: type[AnyParameters], call: Call) -> AnyParameters:
    """Return the argument of `call` as `model`; null and an empty list are an empty object.

    JSON-RPC may give it by position, if the call has one parameter, or one that counts.
    Raises: CallError: `bad_call`, with the fields that do not fit.
    """
    raw = argument_of(call, model.MAX_BYTES)
    if raw.startswith(b"[") and not model.TAKES_LIST:
        raw = _only_member(model, call, raw)
    check_keys(raw, is_deep=True)
    try:
        value = model.spread({} if raw == b"null" else _decode_any(raw))
    except msgspec.DecodeError:
        raise CallError(_unreadable(model, raw)) from None
    if not isinstance(value, dict):
        raise CallError(f"argument: expected an object, got {strict.shown(raw)}")
    return _checked(model, value, raw)


def _unreadable(model: type[Parameters], raw: bytes) -> str:
    """Return what is wrong with JSON in which a number is none for us, as 1e400 and one of 5000 digits are."""
    place, value = "argument", raw
    members: dict[str, Raw] = _decode_object(raw) if raw.startswith(b"{") else {}
    for name, member in members.items():
        if name not in model.__struct_encode_fields__:
            return unknown_name("field", name, model.__struct_encode_fields__)
        if not _is_readable(member):
            place, value = name, bytes(member)
            break
    return f"{place}: expected no number out of range, got {strict.shown(value)}"


def _is_readable(value: Raw) -> bool:
    try:
        _decode_any(value)
    except msgspec.DecodeError:
        return False
    return True


def _checked(model: type[AnyParameters], value: dict[str, Any], raw: bytes) -> AnyParameters:
    try:
        query = msgspec.convert(value, model, dec_hook=_own)
        for name, rule in model.RULES.items():
            rule(getattr(query, name))
    except ValueError:  # msgspec's are, too
        raise CallError("; ".join(islice(_faults(model, value), _MAX_FAULTS))) from None
    try:
        query.check()
    except ValueError as error:
        raise CallError(f"argument: {error}, got {strict.shown(raw)}") from None
    return query


def _only_member(model: type[Parameters], call: Call, raw: bytes) -> bytes:
    """Return the one parameter that a list gives by position; null for none."""
    members = _decode_list(raw)
    if not members:
        return b"null"
    known = len(model.__struct_fields__) if model.BY_POSITION is None else model.BY_POSITION
    if known > 1 or call.dialect not in POSITIONAL:
        raise CallError(f"{call.name} takes its parameters by name, as an object, got {strict.shown(raw)}")
    if len(members) > known:
        raise CallError(f"{call.name} takes {known or 'no'} parameter{'s' * (not known)}, got {strict.shown(raw)}")
    return bytes(members[0])


def _faults(model: type[Parameters], value: Mapping[str, Any]) -> Iterator[str]:
    """Give what is wrong with each field. msgspec only ever says whether something fits: its messages are no interface."""
    for field in msgspec.structs.fields(model):
        if field.encode_name in value:
            if (fault := _fault(model, field.encode_name, value[field.encode_name])) is not None:
                yield f"{field.encode_name}: {fault}, got {strict.shown(_encode(value[field.encode_name]))}"
        elif field.required:
            yield f"{field.encode_name}: field required"
    known = model.__struct_encode_fields__
    yield from (unknown_name("field", name, known) for name in value if name not in known)


def _fault(model: type[Parameters], name: str, value: object) -> str | None:
    try:
        found = msgspec.convert(value, field_types(model)[name], dec_hook=_own)
        if name in model.RULES:
            model.RULES[name](found)
    except msgspec.ValidationError as error:
        return f"expected {expected(model, name)}" if error.__cause__ is None else str(error.__cause__)
    except ValueError as error:
        return str(error)
    return None
