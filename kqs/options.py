"""The fields of an insert, and the settings they resolve to.

`PlainJob` is the common case (type, data, id only) and `JobFields` the whole; both refuse unknown fields. The cascade:
built in -> [defaults] -> the handler's own -> [types.NAME] -> the job's own fields; the later wins, null means the default.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

MAX_TYPE_BYTES = 200
TYPE_RULE = f"1 to {MAX_TYPE_BYTES} bytes of printable text"

PRIORITIES = {"urgent": 8000, "high": 9000, "normal": 10000, "low": 11000, "bulk": 12000}

PrioName = Literal["urgent", "high", "normal", "low", "bulk"]
Prio = Annotated[int, Meta(ge=0, le=2**32 - 1)] | PrioName
Seconds = Annotated[float, Meta(ge=0, le=10**10)]
Count = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
TypeName = Annotated[str, Meta(min_length=1, max_length=MAX_TYPE_BYTES)]  # the rest of the rule is `is_type`
Ttr = Annotated[float, Meta(ge=0.1, le=2**31)]


def is_type(text: str) -> bool:
    """Tell whether `text` may name a type of jobs: TYPE_RULE."""
    return text.isprintable() and 0 < len(text.encode()) <= MAX_TYPE_BYTES


class PlainJob(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A job that sets nothing but what it is. `data` keeps the client's bytes."""

    type: TypeName
    data: Raw = Raw(b"null")
    id: Annotated[str, Meta(min_length=1, max_length=200)] | None = None


class OptionFields(msgspec.Struct, forbid_unknown_fields=True, gc=False, omit_defaults=True):
    """The options a job, a handler or the configuration may set; None leaves the default."""

    prio: Prio | None = None
    delay: Seconds | None = None
    ttr: Ttr | None = None
    auto_touch: bool | None = None
    time_limit: Annotated[float, Meta(gt=0)] | None = None
    retries: Count | None = None
    retry_delay: Seconds | None = None
    backoff: Literal["constant", "exponential"] | None = None
    max_retry_delay: Seconds | None = None
    ghosts: Count | None = None
    ghost_delay: Seconds | None = None
    expire: Annotated[float, Meta(gt=0)] | None = None
    keep: Annotated[float, Meta(ge=-1)] | None = None


class JobFields(OptionFields, forbid_unknown_fields=True, gc=False, omit_defaults=True, kw_only=True):
    """Every field an insert may carry (DESIGN: A job)."""

    type: TypeName
    data: Raw = Raw(b"null")
    id: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    at: float | str | None = None
    wait: None = None  # known, but only its default is supported yet
    resource: None = None  # as wait


Job = PlainJob | JobFields


class Options(msgspec.Struct, frozen=True, gc=False):
    """A job's resolved settings. Times in seconds."""

    prio: int = 10000
    delay: float = 0.0
    ttr: float = 30.0
    auto_touch: bool = False
    time_limit: float | None = None
    retries: int = -1
    retry_delay: float = 30.0
    backoff: Literal["constant", "exponential"] = "constant"
    max_retry_delay: float = 3600.0
    ghosts: int = 10
    ghost_delay: float = 1.0
    expire: float | None = None
    keep: float | None = None  # None: the store's keep_success_s or keep_fail_s


_OPTION_NAMES = OptionFields.__struct_fields__
_MAX_CACHED_TYPES = 10_000  # a client may invent types without end

_decode_own = msgspec.json.Decoder(OptionFields).decode
_encode_own = msgspec.json.Encoder().encode


def own_options(job: JobFields) -> bytes | None:
    """Return the JSON of the options this job set itself (an `at` is resolved elsewhere), or None if it set none."""
    own = OptionFields(*(getattr(job, name) for name in _OPTION_NAMES))
    encoded = _encode_own(own)
    return None if encoded == b"{}" else encoded


class Cascade:
    """Resolves options. Handlers are added as they are registered; results per type are cached."""

    def __init__(self, defaults: dict[str, Any], types: dict[str, dict[str, Any]]) -> None:
        """Args: defaults, types: the [defaults] and [types.NAME] sections, option names only, already checked."""
        self.base = _merge(Options(), defaults)
        self._types = types
        self._handlers: dict[str, dict[str, Any]] = {}
        self._cache: dict[str, Options] = {}

    def set_handler_options(self, type_: str, options: dict[str, Any]) -> None:
        """Let a handler's own options stand between [defaults] and [types.NAME]."""
        self._handlers[type_] = options
        self._cache.pop(type_, None)

    def for_type(self, type_: str) -> Options:
        """Return what a job of this type gets when it sets nothing itself."""
        found = self._cache.get(type_)
        if found is None:
            found = _merge(self.base, self._handlers.get(type_, {}))
            found = _merge(found, self._types.get(type_, {}))
            if len(self._cache) >= _MAX_CACHED_TYPES:
                self._cache.clear()
            self._cache[type_] = found
        return found

    def keep_by_type(self) -> dict[str, float | None]:
        """Return the retention of types that set `keep` somewhere, in s; None for ever."""
        keeps = {type_: self.for_type(type_).keep for type_ in {*self._handlers, *self._types}}
        return {type_: None if keep < 0 else keep for type_, keep in keeps.items() if keep is not None}

    def resolve(self, type_: str, own: bytes | None) -> Options:
        """Return a job's settings; `own` is what `own_options` made of its fields."""
        base = self.for_type(type_)
        return base if own is None else self.merge_own(base, own)

    @staticmethod
    def merge_own(base: Options, own: bytes) -> Options:
        """Return `base` with a job's own options laid over it."""
        fields = _decode_own(own)
        return _merge(base, {name: getattr(fields, name) for name in _OPTION_NAMES})


def _merge(base: Options, changes: dict[str, Any]) -> Options:
    kept = {name: value for name, value in changes.items() if value is not None and value is not UNSET}
    if not kept:
        return base
    if isinstance(kept.get("prio"), str):
        kept["prio"] = PRIORITIES[kept["prio"]]
    return msgspec.structs.replace(base, **kept)


__all__ = [
    "PRIORITIES",
    "TYPE_RULE",
    "Cascade",
    "Job",
    "JobFields",
    "OptionFields",
    "Options",
    "PlainJob",
    "UnsetType",
    "is_type",
    "own_options",
]
