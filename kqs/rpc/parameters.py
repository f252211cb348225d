"""The arguments of the calls that are not on the hot path, as models whose messages name the field."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import msgspec
from msgspec import Raw
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from kqs.config import LEAST_PER_S, MAX_PER_S, MAX_RATE, MAX_RUNNING
from kqs.errors import CallError
from kqs.filter import Filter, Pattern, PatternError
from kqs.job import STATES_BY_WORD, WAITING, State
from kqs.nearest import unknown_name
from kqs.options import MAX_ID_CHARACTERS, MAX_SECONDS, MAX_TYPE_BYTES, MAX_WAIT_S, is_type
from kqs.schedules.calendar import MAX_CRON_CHARACTERS
from kqs.store.ticks import MAX_NAME_CHARACTERS
from kqs.wire import strict
from kqs.wire.call import POSITIONAL, Call

#: Longest argument of these calls, in bytes: a dozen names, each of their characters escaped.
MAX_ARGUMENT_BYTES = 80 * MAX_TYPE_BYTES
#: Ids that one call names, and types; and the longest argument that does, in bytes, with what stands between and beside them.
MAX_IDS = 1000
MAX_TYPES = 1000
TYPES_BYTES = MAX_TYPES * MAX_TYPE_BYTES * 4 // 3
_FILTER_BYTES = MAX_IDS * MAX_ID_CHARACTERS * 4 // 3
#: Digits that pydantic's reader takes of a whole number, where JSON knows no bound.
MAX_DIGITS = 4300
#: Faults told of one argument.
_MAX_FAULTS = 5

_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode


class Parameters(BaseModel):
    """Base of all argument models: unknown fields are refused, and nothing is coerced.

    What checks an argument is built when the first one comes, 1 ms each: together that was a tenth of a server's start.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)

    MAX_BYTES: ClassVar[int] = MAX_ARGUMENT_BYTES
    #: a list is the argument itself, not parameters by position
    TAKES_LIST: ClassVar[bool] = False
    #: how many may come by position; None: all, if there is no more than one
    BY_POSITION: ClassVar[int | None] = None


def _state(word: object) -> State:
    if isinstance(word, str) and word in STATES_BY_WORD:
        return STATES_BY_WORD[word]
    raise ValueError(f"must be one of {', '.join(STATES_BY_WORD)}")


def _type(text: str) -> str:
    if not is_type(text):
        raise ValueError("no job can be of this type")
    return text


#: one that may be; and one that is only looked for: what none can have has no jobs
_Type = Annotated[str, Field(min_length=1, max_length=MAX_TYPE_BYTES), AfterValidator(_type)]
_Text = Annotated[str, Field(min_length=1, max_length=MAX_TYPE_BYTES)]
_Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARACTERS)]
_ScheduleName = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS)]


class NoQuery(Parameters):
    """No argument: nothing, null, or an empty object."""


class IdQuery(Parameters):
    """Argument of `explain`: the id as a string, or an object with `id`."""

    BY_POSITION = 1

    id: _Id

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"id": value} if isinstance(value, str) else value


class JobQuery(IdQuery):
    """Argument of `job`: as of `explain`. wait: how long to wait for the job's end, in s."""

    wait: Annotated[float, Field(ge=0, le=MAX_WAIT_S)] = 0.0


class TypeQuery(Parameters):
    """Argument of `suspend` and `resume`: a type as a string, or an object with `type`."""

    type: _Type

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value


class SubjectQuery(TypeQuery):
    """Argument of `suspend` and `resume`: a type, as a string or in an object; or a schedule."""

    BY_POSITION = 1

    type: Annotated[str, AfterValidator(_type)] = ""
    schedule: _ScheduleName | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if not self.type and self.schedule is None:
            raise ValueError("names no type and no schedule")
        if self.type and self.schedule is not None:
            raise ValueError("names a type and a schedule, expected one of them")
        return self


class NameQuery(Parameters):
    """Argument of `fire`: a schedule's name as a string, or an object with `name`."""

    BY_POSITION = 1

    name: _ScheduleName

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class UnscheduleQuery(NameQuery):
    """Argument of `unschedule`. force: also what another server's config has."""

    force: bool = False


class SchedulesQuery(Parameters):
    """Argument of `schedules`. next: how many instants of each; `after`: the last name already seen; `limit`: 1..1000."""

    name: _ScheduleName | None = None
    next: Annotated[int, Field(ge=0, le=100)] = 1
    after: _ScheduleName | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class ScheduleQuery(Parameters):
    """Argument of `schedule`, but for its job, whose bytes stay as they are."""

    BY_POSITION = 2

    name: _ScheduleName
    cron: Annotated[str, Field(max_length=MAX_CRON_CHARACTERS)] | None = None
    every: float | None = None
    from_: Annotated[float | str | None, Field(alias="from")] = None
    tz: str = "UTC"
    catch_up: Literal["one", "skip", "all"] = "one"
    overlap: Literal["allow", "skip"] = "allow"


class LimitQuery(Parameters):
    """Argument of `limit`. A limit that is null is lifted, one that is left out stays as it is; or `reset` alone."""

    type: _Type
    concurrency: Annotated[int, Field(ge=0, le=MAX_RUNNING)] | None = None
    max_running: Annotated[int, Field(ge=0, le=MAX_RUNNING)] | None = None
    rate: Annotated[float, Field(gt=0, le=MAX_RATE)] | None = None
    per_s: Annotated[float, Field(ge=LEAST_PER_S, le=MAX_PER_S)] = 1.0
    reset: bool = False

    @property
    def named(self) -> dict[str, Any]:
        """Return the limits that were given, null ones too."""
        return {name: getattr(self, name) for name in self.model_fields_set - {"type", "reset"}}

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.reset and self.named:
            raise ValueError("reset takes back what was said, so no limit goes beside it")
        if not self.reset and not self.named:
            raise ValueError("names no limit: concurrency, max_running, rate, per_s, or reset")
        return self


class ConfigureQuery(Parameters):
    """Argument of `configure`. An option that is null is taken back, one that is left out stays; no type: all types."""

    type: _Type | None = None
    options: dict[str, Any] = {}
    reset: bool = False

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if self.reset and self.options:
            raise ValueError("reset takes back what was said, so no options go beside it")
        return self


class SubscriptionQuery(Parameters):
    """Argument of `subscribe` and `unsubscribe`."""

    type: _Type
    subscriber: _Type


def _states(words: object) -> object:
    if isinstance(words, list):
        if not words:
            raise ValueError("names no state")
        return frozenset(map(_state, words))
    return None if words is None else frozenset([_state(words)])


def _pattern(text: object) -> object:
    if not isinstance(text, str):
        return text
    try:
        return Pattern(text)
    except PatternError as error:
        raise ValueError(str(error)) from None


_States = Annotated[frozenset[State] | None, BeforeValidator(_states)]
_Pattern = Annotated[Pattern | None, BeforeValidator(_pattern)]


class FilterQuery(Parameters):
    """Which jobs are meant: all that is given must be so of them. older_than: s since their acceptance. match: RE2."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)

    MAX_BYTES = _FILTER_BYTES

    id: _Id | None = None
    ids: Annotated[list[_Id], Field(max_length=MAX_IDS)] | None = None
    type: _Text | None = None
    state: _States = None
    resource: _Text | None = None
    group: _Text | None = None
    older_than: Annotated[float, Field(ge=0, le=MAX_SECONDS)] | None = None
    match: _Pattern = None

    def filter(self, now: float) -> Filter:
        """Return the filter. now: Unix seconds."""
        ids = None
        if self.id is not None or self.ids is not None:
            ids = (*([] if self.id is None else [self.id]), *(self.ids or ()))
        before = None if self.older_than is None else now - self.older_than
        return Filter(ids, self.type, self.state, self.resource, before, self.match, self.group)


class JobsQuery(FilterQuery):
    """Argument of `jobs`. `after`: the id of the last job already seen; `limit`: 1..1000 jobs; `newest`: those first.

    cursor: where the last page ended, which answers with the next one; empty: the first.
    """

    after: _Id | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    newest: bool = False
    cursor: Annotated[str, Field(pattern="^([0-9a-f]{1,16})?$")] | None = None

    @model_validator(mode="after")
    def _begins_once(self) -> Self:
        if self.after is not None and self.cursor is not None:
            raise ValueError("after, cursor: expected one of them")
        return self


class ChangeQuery(FilterQuery):
    """Argument of `cancel` and `retry`: an id, a list of ids, or a filter, which must not be empty unless `all` says so.

    progress: say now and then how far it is.
    """

    TAKES_LIST = True

    all: bool = False
    dry_run: bool = False
    progress: bool = False

    @model_validator(mode="before")
    @classmethod
    def _from_ids(cls, value: Any) -> Any:
        if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], str):
            value = value[0]  # the one parameter of JSON-RPC, by position
        if isinstance(value, list):
            return {"ids": value}
        return {"id": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _names_jobs(self) -> Self:
        if not self.all and all(getattr(self, name) is None for name in FilterQuery.model_fields):
            raise ValueError('name jobs by id, ids, type, state, resource, group, older_than or match, or say {"all":true}')
        return self


class DeleteQuery(ChangeQuery):
    """Argument of `delete`. force: running jobs too."""

    force: bool = False


class PurgeQuery(Parameters):
    """Argument of `purge`. regex: as `match`."""

    type: _Text
    regex: _Pattern = None
    dry_run: bool = False
    progress: bool = False

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)

    def filter(self) -> Filter:
        """Return the filter."""
        return Filter(type=self.type, states=WAITING, match=self.regex)


class TypesQuery(Parameters):
    """Argument of `types`. `after`: the last type already seen; `limit`: 1..1000 types."""

    type: _Text | None = None
    after: _Text | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class HelpQuery(Parameters):
    """Argument of `help`: a call's name as a string, or nothing."""

    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


AnyParameters = TypeVar("AnyParameters", bound=Parameters)


def parse(model: type[AnyParameters], call: Call) -> AnyParameters:
    """Return the argument of `call` as `model`; null and an empty list are an empty object.

    JSON-RPC may give it by position, if the call has one parameter, or one that counts.
    Raises: CallError: `bad_call`, with the fields that do not fit.
    """
    if call.blob is not None:
        raise CallError(f"{call.name} takes no binary data")
    if len(call.arg) > model.MAX_BYTES:
        raise CallError(f"argument: expected at most {model.MAX_BYTES} bytes, got {len(call.arg)}")
    raw = bytes(call.arg)
    if raw.startswith(b"[") and not model.TAKES_LIST:
        raw = _only_member(model, call, raw)
    try:
        return model.model_validate_json(b"{}" if raw == b"null" else raw)
    except ValidationError as error:
        details = error.errors(include_url=False)[:_MAX_FAULTS]
    if details[0]["type"] == "json_invalid":
        raise CallError(_unreadable(model, raw))
    raise CallError("; ".join(_describe(model, detail) for detail in details))


def _unreadable(model: type[Parameters], raw: bytes) -> str:
    """Return what is wrong with JSON that only pydantic does not read."""
    place, value = "argument", raw
    members: dict[str, Raw] = _decode_object(raw) if raw.lstrip().startswith(b"{") else {}
    for name, member in members.items():
        if name not in _names(model):
            return unknown_name("field", name, _names(model))
        if not _is_readable(member):
            place, value = name, bytes(member)
            break
    return f"{place}: expected numbers of at most {MAX_DIGITS} digits, got {strict.shown(value)}"


def _is_readable(value: Raw) -> bool:
    try:
        from_json(bytes(value))
    except ValueError:
        return False
    return True


def _names(model: type[Parameters]) -> list[str]:
    """Return the fields, as they are said."""
    return [info.alias or name for name, info in model.model_fields.items()]


def _only_member(model: type[Parameters], call: Call, raw: bytes) -> bytes:
    """Return the one parameter that a list gives by position; null for none."""
    members = _decode_list(raw)
    if not members:
        return b"null"
    known = len(model.model_fields) if model.BY_POSITION is None else model.BY_POSITION
    if known > 1 or call.dialect not in POSITIONAL:
        raise CallError(f"{call.name} takes its parameters by name, as an object, got {strict.shown(raw)}")
    if len(members) > known:
        raise CallError(f"{call.name} takes {known or 'no'} parameter{'s' * (not known)}, got {strict.shown(raw)}")
    return bytes(members[0])


def _describe(model: type[Parameters], detail: Any) -> str:
    field = ".".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        return unknown_name("field", field, _names(model))
    message = str(detail["ctx"]["error"]) if detail["type"] == "value_error" else detail["msg"]
    message = message[:1].lower() + message[1:]
    if detail["type"] == "missing":
        return f"{field}: {message}"
    return f"{field or 'argument'}: {message}, got {_shown(detail['input'])}"


def _shown(value: object) -> str:
    try:
        return strict.shown(json.dumps(value, ensure_ascii=False).encode())
    except ValueError:  # a handler has lowered sys.set_int_max_str_digits
        return "a number of many digits"
