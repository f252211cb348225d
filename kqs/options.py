"""The fields of an insert, and the settings they resolve to.

`PlainJob` is the common case (type, data, id only) and `JobFields` the whole; both refuse unknown fields. The cascade:
built in -> [defaults] -> the handler's own -> [types.NAME] -> the job's own fields; the later wins, null means the default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from operator import attrgetter
from typing import Annotated, Any, Literal, TypedDict, get_type_hints

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from kqs.words.phrases import in_words
from kqs.words.printable import is_all_seen

#: also of a resource, a group, a unique key
MAX_TYPE_BYTES = 200
MAX_ID_CHARACTERS = 200
TYPE_RULE = f"1 to {MAX_TYPE_BYTES} bytes of printable text"
MAX_WORKER_NAME_CHARACTERS = 200
WORKER_NAME_RULE = f"1 to {MAX_WORKER_NAME_CHARACTERS} characters of printable text"
#: Three centuries. From any date a clock may show, such a time later is still a date; in ms or µs it still fits 64 bits.
MAX_SECONDS = 10**10

PRIORITIES = {"urgent": 8000, "high": 9000, "normal": 10000, "low": 11000, "bulk": 12000}

PrioName = Literal["urgent", "high", "normal", "low", "bulk"]
Prio = Annotated[int, Meta(ge=0, le=2**32 - 1)] | PrioName
_UNIT = {"unit": "seconds"}
Seconds = Annotated[float, Meta(ge=0, le=MAX_SECONDS, extra_json_schema=_UNIT)]
Span = Annotated[float, Meta(gt=0, le=MAX_SECONDS, extra_json_schema=_UNIT)]
Count = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
TypeName = Annotated[  # the rest of the rule is `is_type`
    str, Meta(min_length=1, max_length=MAX_TYPE_BYTES, extra_json_schema={"expected": TYPE_RULE})
]
ResourceName = Annotated[  # the rest of the rule is `is_type`
    str, Meta(min_length=1, max_length=MAX_TYPE_BYTES, extra_json_schema={"expected": TYPE_RULE})
]
JobId = Annotated[  # the rest of the rule is kqs.ids.ID_PATTERN
    str,
    Meta(
        min_length=1,
        max_length=MAX_ID_CHARACTERS,
        extra_json_schema={"expected": f"1 to {MAX_ID_CHARACTERS} of A-Z a-z 0-9 . _ : -"},
    ),
]
Ttr = Annotated[float, Meta(ge=0.1, le=2**31, extra_json_schema=_UNIT)]
Keep = Annotated[
    float,
    Meta(
        ge=-1,
        le=MAX_SECONDS,
        extra_json_schema={**_UNIT, "expected": f"a number of seconds from 0 to {MAX_SECONDS}, or -1 for ever"},
    ),
]
UniqueKey = Annotated[  # the rest of the rule is `is_type`
    str, Meta(min_length=1, max_length=MAX_TYPE_BYTES, extra_json_schema={"expected": TYPE_RULE})
]
GroupName = UniqueKey
#: jobs that one job may wait for
MOST_AFTER = 1000
AfterIds = Annotated[  # the rest of the rule is kqs.ids.ID_PATTERN, and kqs.wire.order
    list[Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARACTERS)] | Annotated[int, Meta(ge=0, le=2**31)]],
    Meta(max_length=MOST_AFTER, extra_json_schema={"expected": f"up to {MOST_AFTER} ids, or positions in the array"}),
]
#: the longest that an answer is held for a job's end, in s: a week
MAX_WAIT_S = 604_800
Wait = Annotated[float, Meta(ge=0, le=MAX_WAIT_S, extra_json_schema=_UNIT)]
Backoff = Literal["constant", "exponential"]
OnConflict = Literal["join", "refuse"]
#: which of the ticks of a schedule that came too late are inserted; whether it ticks while its last job has not ended
CatchUp = Literal["one", "skip", "all"]
Overlap = Literal["allow", "skip"]
At = Annotated[float | str, Meta(extra_json_schema={"expected": "an RFC 3339 time with its zone, or Unix seconds"})]


def is_type(text: str) -> bool:
    """Tell whether `text` may name a type of jobs, or a resource: TYPE_RULE."""
    return is_all_seen(text) and 0 < len(text.encode()) <= MAX_TYPE_BYTES


def is_worker_name(text: str) -> bool:
    """Tell whether `text` may name a worker: WORKER_NAME_RULE."""
    return is_all_seen(text) and 0 < len(text) <= MAX_WORKER_NAME_CHARACTERS


class PlainJob(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A job that sets nothing but what it is. `data` keeps the client's bytes."""

    type: TypeName
    data: Raw = Raw(b"null")
    id: JobId | None = None


class OptionFields(msgspec.Struct, forbid_unknown_fields=True, gc=False, omit_defaults=True):
    """The options a job, a handler or the configuration may set; None leaves the default.

    The description of a field is its help in `kqs insert`, which has an option for each field that has one.
    """

    prio: Annotated[Prio | None, Meta(description="urgent, high, normal, low, bulk, or 0 to 4294967295; less is sooner.")] = (
        None
    )
    delay: Annotated[Seconds | None, Meta(description="Seconds before it may run.")] = None
    ttr: Annotated[Ttr | None, Meta(description="Seconds a run may go without a report or a touch.")] = None
    auto_touch: Annotated[bool | None, Meta(description="Touch for the handler as long as it lives.")] = None
    time_limit: Annotated[Span | None, Meta(description="Hard limit of one run, in seconds.")] = None
    retries: Annotated[Count | None, Meta(description="Failures that are retried; -1: until it succeeds.")] = None
    retry_delay: Annotated[Seconds | None, Meta(description="Seconds before the first retry.")] = None
    backoff: Annotated[Backoff | None, Meta(description="How that wait grows.")] = None
    max_retry_delay: Annotated[Seconds | None, Meta(description="Longest wait before a retry, in seconds.")] = None
    ghosts: Annotated[Count | None, Meta(description="Vanished runs that are run again; -1: without end.")] = None
    ghost_delay: Annotated[Seconds | None, Meta(description="Seconds before a vanished run is run again, doubling.")] = None
    expire: Annotated[Span | None, Meta(description="Seconds after which it fails unless it has succeeded.")] = None
    keep: Annotated[Keep | None, Meta(description="Seconds its record outlives its end; 0: gone at once, -1: for ever.")] = None
    resource: Annotated[ResourceName | None, Meta(description="A key that only one running job may have at a time.")] = None
    wait: Annotated[Wait | None, Meta(description="Wait so many seconds for its end, and print how it has ended.")] = None


class JobFields(OptionFields, forbid_unknown_fields=True, gc=False, omit_defaults=True, kw_only=True):
    """Every field an insert may carry (docs/protocol.md)."""

    type: TypeName
    data: Raw = Raw(b"null")
    id: Annotated[
        JobId | None, Meta(description="Your own id; inserting it again has no effect while the server knows it (see --keep).")
    ] = None
    at: Annotated[At | None, Meta(description="When it may run: an RFC 3339 time or Unix seconds.")] = None
    unique: Annotated[
        UniqueKey | None,
        Meta(description="A key of which one waiting job of TYPE is enough: a second is joined to it, whose id is printed."),
    ] = None
    group: Annotated[GroupName | None, Meta(description="Jobs of TYPE take turns by it: a tenant, a user, a customer.")] = None
    on_conflict: OnConflict | None = None
    answer: Literal["full"] | None = None  # says how it is answered, and has no meaning once it is
    tick: float | UnsetType = (
        UNSET  # of no client's: the instant, in Unix seconds, at which the schedule ticked whose job it is
    )
    after: AfterIds | None = None
    after_any_end: bool | None = None
    batch: JobId | None = None
    members: int | UnsetType = UNSET  # of no client's: it is the `then` of a batch of so many jobs; -1: of an open one
    copies: dict[str, str] | None = None  # of an adopted one: the ids of its copies, by subscriber


Job = PlainJob | JobFields


class OwnFields(TypedDict, total=False):
    """Fields of a job beside its type and data, as checkers of programs know them; seconds for times."""

    id: str
    prio: int | str
    delay: float
    at: float | str
    ttr: float
    auto_touch: bool
    time_limit: float
    retries: int
    retry_delay: float
    backoff: Backoff
    max_retry_delay: float
    ghosts: int
    ghost_delay: float
    expire: float
    keep: float
    resource: str
    group: str
    unique: str
    on_conflict: OnConflict
    after: Sequence[str]
    after_any_end: bool
    batch: str


def prio_number(prio: int | str) -> int:
    """Return the number of a priority that may have been named."""
    return PRIORITIES[prio] if isinstance(prio, str) else prio


def unique_key(job: Job) -> str | None:
    """Return the key of which no second job of its type may wait; None: it has none."""
    return job.unique if isinstance(job, JobFields) else None


def is_told(job: Job) -> bool:
    """Tell whether what is answered to its insert is more than the id it is kept under."""
    return isinstance(job, JobFields) and (job.unique is not None or job.answer is not None)


class Options(msgspec.Struct, frozen=True, gc=False):
    """A job's resolved settings. Times in seconds."""

    prio: int = 10000
    delay: float = 0.0
    ttr: float = 30.0
    auto_touch: bool = False
    time_limit: float | None = None
    retries: int = -1
    retry_delay: float = 30.0
    backoff: Backoff = "constant"
    max_retry_delay: float = 3600.0
    ghosts: int = 10
    ghost_delay: float = 1.0
    expire: float | None = None
    keep: float | None = None  # None: the store's keep_success_s or keep_fail_s
    resource: str | None = None
    wait: float | None = None  # of the insert, not of the run: a job's own is not kept


_OPTION_NAMES = OptionFields.__struct_fields__
_options_of = attrgetter(*_OPTION_NAMES)
_MAX_CACHED_TYPES = 10_000  # a client may invent types without end

_decode_own = msgspec.json.Decoder(OptionFields).decode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_encode_own = msgspec.json.Encoder().encode


@cache
def field_types(fields: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the annotation of each field, by its name in JSON, as msgspec's decoders and converters take it."""
    hints = get_type_hints(fields, include_extras=True)
    return {known: hints[name] for known, name in zip(fields.__struct_encode_fields__, fields.__struct_fields__, strict=True)}


@cache
def expected(fields: type[msgspec.Struct], name: str) -> str:
    """Return in words what the field `name` may be."""
    return in_words(schema_of(fields, name))


def is_option(name: str, value: object) -> bool:
    """Tell whether the option `name` may be `value`."""
    try:
        msgspec.convert(value, field_types(OptionFields)[name])
    except msgspec.ValidationError:
        return False
    return name != "resource" or value is None or is_type(str(value))


def allowed(name: str, value: object) -> Any:
    """Return what comes nearest to `value` of all that the option `name` may be: None, its default, where nothing does.

    For what was accepted by a version with wider bounds, which must be kept to as well as can be.
    """
    if is_option(name, value):
        return value
    if isinstance(value, int | float):
        for schema in schema_of(OptionFields, name)["anyOf"]:
            least = schema.get("minimum", schema.get("exclusiveMinimum", value))
            nearest = min(max(value, least), schema.get("maximum", value))
            if is_option(name, nearest):
                return nearest
    return None


@cache
def schema_of(fields: type[msgspec.Struct], name: str) -> dict[str, Any]:
    """Return the JSON schema of what the field `name` may be."""
    (schema,), _ = msgspec.json.schema_components([field_types(fields)[name]], schema_hook=lambda _type: {"type": "string"})
    return schema


def own_options(job: JobFields) -> bytes | None:
    """Return the JSON of the options that this job set itself and that are kept, or None if there are none.

    An `at` is resolved elsewhere, and so is its resource, which is kept beside them: who sets nothing else is a plain job.
    `wait` is for who has inserted the job, and for nobody else.
    """
    own = OptionFields(*_options_of(job))
    own.wait = own.resource = None
    encoded = _encode_own(own)
    return None if encoded == b"{}" else encoded


class _ByType(dict[str, Options]):
    """What jobs of each type get, made as it is asked for: a look-up of one that was is no call."""

    def __init__(self, make: Callable[[str], Options]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, type_: str) -> Options:
        made = self._make(type_)
        if len(self) >= _MAX_CACHED_TYPES:
            self.clear()
        self[type_] = made
        return made


class Cascade:
    """Resolves options. Handlers are added as they are registered; results per type are cached.

    base: those of a type of which nothing is said. of_type: by type, of any, what a job gets that sets nothing itself.
    has_waits: jobs of some type wait for their end without saying so.
    """

    def __init__(self, defaults: Mapping[str, Any], types: Mapping[str, Mapping[str, Any]]) -> None:
        """Args: defaults, types: the [defaults] and [types.NAME] sections, option names only, already checked."""
        self._defaults = defaults
        self._file_types = types
        self._types = types
        self._handlers: dict[str, dict[str, Any]] = {}
        self._made = _ByType(self._merged)
        self.of_type: Mapping[str, Options] = self._made
        self.configure({}, {})

    def configure(self, defaults: Mapping[str, Any], types: Mapping[str, Mapping[str, Any]]) -> None:
        """Let these stand above the sections, and no others that were given so; checked, as they are."""
        self.base = _merge(Options(), {**self._defaults, **defaults})
        self._types = {
            type_: {**self._file_types.get(type_, {}), **types.get(type_, {})} for type_ in {*self._file_types, *types}
        }
        self._note()

    def set_handler_options(self, type_: str, options: dict[str, Any]) -> None:
        """Let a handler's own options stand between [defaults] and [types.NAME]."""
        self._handlers[type_] = options
        self._note()

    def _note(self) -> None:
        self._made.clear()
        waits = (fields.get("wait") for fields in (*self._handlers.values(), *self._types.values()))
        self.has_waits = bool(self.base.wait) or any(waits)

    def _merged(self, type_: str) -> Options:
        return _merge(_merge(self.base, self._handlers.get(type_, {})), self._types.get(type_, {}))

    def keep_by_type(self) -> dict[str, float | None]:
        """Return the retention of types that set `keep` somewhere, in s; None for ever."""
        keeps = {type_: self.of_type[type_].keep for type_ in {*self._handlers, *self._types}}
        return {type_: None if keep < 0 else keep for type_, keep in keeps.items() if keep is not None}

    def expire_by_type(self) -> dict[str, float | None]:
        """Return after how long jobs expire of all types that have settings, in s; None for never."""
        return {type_: self.of_type[type_].expire for type_ in {*self._handlers, *self._types}}

    def resolve(self, type_: str, own: bytes | None) -> Options:
        """Return a job's settings; `own` is what `own_options` made of its fields."""
        base = self.of_type[type_]
        return base if own is None else self.merge_own(base, own)

    @staticmethod
    def merge_own(base: Options, own: bytes) -> Options:
        """Return `base` with a job's own options laid over it."""
        return _merge(base, _own_fields(own))


def _own_fields(own: bytes) -> dict[str, Any]:
    try:
        fields = _decode_own(own)
    except msgspec.ValidationError:  # a version with other fields or wider bounds stored it
        return {name: allowed(name, value) for name, value in _decode_object(own).items() if name in _OPTION_NAMES}
    return {name: getattr(fields, name) for name in _OPTION_NAMES}


def _merge(base: Options, changes: Mapping[str, Any]) -> Options:
    kept = {name: value for name, value in changes.items() if value is not None and value is not UNSET}
    if not kept:
        return base
    if "prio" in kept:
        kept["prio"] = prio_number(kept["prio"])
    return msgspec.structs.replace(base, **kept)


__all__ = [
    "MAX_SECONDS",
    "PRIORITIES",
    "TYPE_RULE",
    "Cascade",
    "Job",
    "JobFields",
    "OptionFields",
    "Options",
    "PlainJob",
    "UnsetType",
    "allowed",
    "expected",
    "field_types",
    "is_option",
    "is_told",
    "is_type",
    "own_options",
    "prio_number",
    "schema_of",
    "unique_key",
]
