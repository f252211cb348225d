"""The arguments of calls, as structs. How they are read is in kqs.rpc.parsing.

Of some a call has many, which are read elsewhere: jobs in kqs.wire.jobs and kqs.rpc.batches, what is said of runs in
kqs.rpc.reports.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from kqs.config import LEAST_PER_S, MAX_PER_S, MAX_RATE, MAX_RUNNING
from kqs.filter import Filter, Pattern
from kqs.options import (
    MAX_ID_CHARACTERS,
    MAX_SECONDS,
    MAX_TYPE_BYTES,
    MAX_WAIT_S,
    TYPE_RULE,
    WORKER_NAME_RULE,
    CatchUp,
    Overlap,
    is_type,
    is_worker_name,
)
from kqs.queue.events import Word
from kqs.rpc.parsing import Parameters
from kqs.schedules.calendar import MAX_CRON_CHARACTERS
from kqs.states import STATES_BY_WORD, WAITING, State
from kqs.store.ticks import MAX_NAME_CHARACTERS
from kqs.wire.runs import MAX_ROOM, MAX_RUNS, MAX_TYPES

#: Ids that one call names; and the longest argument that names so many, or types, in bytes, with what stands beside them.
MAX_IDS = 1000
_TYPES_BYTES = MAX_TYPES * MAX_TYPE_BYTES * 4 // 3
_FILTER_BYTES = MAX_IDS * MAX_ID_CHARACTERS * 4 // 3
#: who gives no name is recorded as this
_NAMELESS = "remote"


def _type(name: str | None) -> None:
    if name and not is_type(name):
        raise ValueError("no job can be of this type")


def _types(names: list[str] | None) -> None:
    """Raises: ValueError: one of them is no type."""
    if not all(map(is_type, names or ())):
        raise ValueError(f"expected {TYPE_RULE}")


def _worker(name: str) -> None:
    """Raises: ValueError: no worker can be called so."""
    if name and not is_worker_name(name):
        raise ValueError(f"expected {WORKER_NAME_RULE}")


#: what names a type, a resource, a group; the rest of the rule, for one that may be, is `_type`
_Text = Annotated[str, Meta(min_length=1, max_length=MAX_TYPE_BYTES)]
_Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARACTERS)]
_ScheduleName = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARACTERS)]


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


class SubjectQuery(Parameters, frozen=True, kw_only=True):
    """Argument of `suspend` and `resume`: a type, as a string or in an object; or a schedule."""

    RULES: ClassVar = {"type": _type}
    BARE = "type"
    BY_POSITION = 1

    type: _Text = ""
    schedule: _ScheduleName | None = None

    def check(self) -> None:
        """See Parameters."""
        if not self.type and not self.schedule:
            raise ValueError("names no type and no schedule")
        if self.type and self.schedule:
            raise ValueError("names a type and a schedule, expected one of them")


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

    RULES: ClassVar = {"type": _type}

    type: _Text
    concurrency: Annotated[int, Meta(ge=0, le=MAX_RUNNING)] | UnsetType | None = UNSET
    max_running: Annotated[int, Meta(ge=0, le=MAX_RUNNING)] | UnsetType | None = UNSET
    rate: Annotated[float, Meta(gt=0, le=MAX_RATE)] | UnsetType | None = UNSET
    per_s: Annotated[float, Meta(ge=LEAST_PER_S, le=MAX_PER_S)] | UnsetType = UNSET
    reset: bool = False

    @property
    def named(self) -> dict[str, Any]:
        """Return the limits that were given, null ones too."""
        return {name: limit for name in _LIMITS if (limit := getattr(self, name)) is not UNSET}

    def check(self) -> None:
        """See Parameters."""
        if self.reset and self.named:
            raise ValueError("reset takes back what was said, so no limit goes beside it")
        if not self.reset and not self.named:
            raise ValueError(f"names no limit: {', '.join(_LIMITS)}, or reset")


_LIMITS = [name for name in LimitQuery.__struct_fields__ if name not in ("type", "reset")]


class ConfigureQuery(Parameters, frozen=True, kw_only=True):
    """Argument of `configure`. An option that is null is taken back, one that is left out stays; no type: all types."""

    RULES: ClassVar = {"type": _type}

    type: _Text | None = None
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    reset: bool = False

    def check(self) -> None:
        """See Parameters."""
        if self.reset and self.options:
            raise ValueError("reset takes back what was said, so no options go beside it")


class SubscriptionQuery(Parameters, frozen=True, kw_only=True):
    """Argument of `subscribe` and `unsubscribe`."""

    RULES: ClassVar = {"type": _type, "subscriber": _type}

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


def _pattern(value: object) -> Pattern:
    """Raises: ValueError."""
    if not isinstance(value, str):
        raise ValueError("expected text")
    return Pattern(value)


class FilterQuery(Parameters, frozen=True, kw_only=True):
    """Which jobs are meant: all that is given must be so of them. older_than: s since their acceptance. match: RE2."""

    MAX_BYTES = _FILTER_BYTES
    OWN: ClassVar = {States: States.of, Pattern: _pattern}

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

    OWN: ClassVar = {Pattern: _pattern}

    type: _Text
    regex: Pattern | None = None
    dry_run: bool = False
    progress: bool = False

    def filter(self) -> Filter:
        """Return the filter."""
        return Filter(type=self.type, states=WAITING, match=self.regex)


class JobsWanted(Parameters, frozen=True, kw_only=True):
    """What `reserve` and `work` are both told."""

    MAX_BYTES = _TYPES_BYTES
    RULES: ClassVar = {"types": _types, "worker": _worker}

    types: Annotated[list[str], Meta(min_length=1, max_length=MAX_TYPES)]
    worker: Annotated[str, Meta(min_length=1)] = ""
    hold: bool = False

    @property
    def name(self) -> str:
        """Return whom runs are recorded as in the hands of."""
        return self.worker or _NAMELESS

    def check(self) -> None:
        """See Parameters."""
        if self.hold and not self.worker:
            raise ValueError("hold: needs the name of a worker")


class ReserveQuery(JobsWanted, frozen=True, kw_only=True):
    """Argument of `reserve`."""

    count: Annotated[int, Meta(ge=1, le=MAX_RUNS)] = 1
    wait: Annotated[float, Meta(ge=0, le=MAX_WAIT_S)] = 0.0


class WorkQuery(JobsWanted, frozen=True, kw_only=True):
    """Argument of `work`. room: 0: it asks for nothing, and needs no types."""

    types: Annotated[list[str], Meta(min_length=1, max_length=MAX_TYPES)] = msgspec.field(default_factory=list)
    room: Annotated[int, Meta(ge=0, le=MAX_ROOM)] = 1

    def check(self) -> None:
        """See Parameters."""
        super().check()
        if self.room and not self.types:
            raise ValueError("types: needed unless room is 0")


class WithdrawQuery(Parameters, frozen=True, kw_only=True):
    """Argument of `withdraw`. call: the id of a standing call of this connection."""

    call: str | int | float


class EventsQuery(Parameters, frozen=True, kw_only=True):
    """Argument of `events`. types, events: only these; None: all."""

    MAX_BYTES = _TYPES_BYTES
    RULES: ClassVar = {"types": _types}

    types: Annotated[list[str], Meta(min_length=1, max_length=MAX_TYPES)] | None = None
    events: (
        Annotated[list[Word], Meta(min_length=1, extra_json_schema={"expected": f"a list of some of {', '.join(Word)}"})] | None
    ) = None


class TypesQuery(Parameters, frozen=True, kw_only=True):
    """Argument of `types`. `after`: the last type already seen; `limit`: 1..1000 types."""

    type: _Text | None = None
    after: _Text | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class HelpQuery(Parameters, frozen=True, kw_only=True):
    """Argument of `help`: a call's name as a string, or nothing."""

    BARE = "name"

    name: str | None = None
