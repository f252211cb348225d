"""Every setting: its type, range, unit and default. One frozen struct a section."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import msgspec
from msgspec import Meta

from kqs.options import MAX_SECONDS, CatchUp, Overlap, is_type
from kqs.wire.jobs import DEFAULT_INSERT_JOBS
from kqs.wire.lines import DEFAULT_LINE_BYTES

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_BEANSTALKD = re.compile(r"unix:/\S+|(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen section. Whether values fit is checked where they are read (kqs.config.load), by their types and RULES."""

    #: by setting, what it must be that its type cannot say
    RULES: ClassVar[Mapping[str, Callable[[Any], bool]]] = {}


class ServerSection(Section, frozen=True):
    """[server]: where calls come in, and what one connection may ask for."""

    host: Annotated[
        str, Meta(description="name or address to listen on; localhost is 127.0.0.1 and ::1; empty: none, only the UNIX socket")
    ] = "localhost"
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port; 0 takes a free one")] = 14151
    socket: Annotated[str, Meta(max_length=107, description="path of a UNIX socket to listen on as well; empty: none")] = ""
    socket_mode: Annotated[
        str,
        Meta(
            pattern=r"^0?[0-7]{3}\Z",
            description="who may use that socket, as chmod takes it",
            extra_json_schema={"expected": 'permissions in octal, as "0660"'},
        ),
    ] = "0600"
    socket_group: Annotated[str, Meta(max_length=32, description="group of that socket; empty: the server's own")] = ""
    max_line_bytes: Annotated[int, Meta(ge=64, le=512 * MIB, description="longest line accepted, in bytes")] = (
        DEFAULT_LINE_BYTES
    )
    max_connections: Annotated[int, Meta(ge=1, le=1_000_000, description="connections open at a time")] = 10_000
    max_in_flight: Annotated[
        int,
        Meta(
            ge=1, le=1_000_000, description="calls of one connection that wait for their answers before it is read no further"
        ),
    ] = 4096
    max_insert_jobs: Annotated[int, Meta(ge=1, le=1_000_000, description="jobs in the array of one insert")] = (
        DEFAULT_INSERT_JOBS
    )
    namespace: Annotated[
        str,
        Meta(
            max_length=32,
            pattern=r"^([A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)?\Z",
            description="stands in the names of what is shared with other fleets",
            extra_json_schema={"expected": "at most 32 letters, digits, '_', '-', or single '.' inside"},
        ),
    ] = ""
    allow_public: Annotated[bool, Meta(description="listen beyond loopback, where anybody who reaches the port may use it")] = (
        False
    )


class JournalSection(Section, frozen=True):
    """[journal]: where accepted jobs are flushed before they are answered."""

    dir: Annotated[Path, Meta(description="folder of the journal, relative to the working directory of the start")] = Path(
        "journal"
    )
    segment_bytes: Annotated[int, Meta(ge=1 * KIB, le=16 * GIB, description="size at which a new segment begins, in bytes")] = (
        64 * MIB
    )
    min_free_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=GIB * GIB,
            description="free disk space, beyond what the store has yet to take, below which inserts are refused, in bytes",
        ),
    ] = 256 * MIB
    batch_bytes: Annotated[int, Meta(ge=1, le=256 * MIB, description="most bytes in one flush")] = 1 * MIB
    batch_records: Annotated[int, Meta(ge=1, le=100_000, description="most records in one flush")] = 1000


class StoreSection(Section, frozen=True):
    """[store]: what is known about each job, and for how long."""

    kind: Annotated[Literal["sqlite", "mongodb"], Meta(description="the engine")] = "sqlite"
    uri: Annotated[
        str,
        Meta(
            description="sqlite: path of its file, empty: store.sqlite in the journal's folder; mongodb: its URI, empty: mongodb://localhost"
        ),
    ] = ""
    bulk_bytes: Annotated[
        int, Meta(ge=0, le=1 * GIB, description="payloads above this live apart from the record, in bytes")
    ] = 64 * KIB
    keep_success_s: Annotated[
        float, Meta(ge=-1, le=MAX_SECONDS, description="how long a succeeded job's record is kept, in seconds; -1: for ever")
    ] = 3600.0
    keep_success_count: Annotated[int, Meta(ge=0, le=10**12, description="most succeeded jobs kept; the oldest go first")] = (
        1_000_000
    )
    keep_fail_s: Annotated[
        float, Meta(ge=-1, le=MAX_SECONDS, description="how long a failed job's record is kept, in seconds; -1: for ever")
    ] = -1.0
    cache_bytes: Annotated[int, Meta(ge=1 * MIB, le=64 * GIB, description="page cache of the engine, in bytes")] = 32 * MIB


def _are_addresses(servers: list[str]) -> bool:
    return bool(servers) and all(map(_BEANSTALKD.fullmatch, servers))


class BrokerSection(Section, frozen=True):
    """[broker]: which jobs are ready, and in what order."""

    RULES = {"servers": _are_addresses}

    kind: Annotated[Literal["memory", "beanstalkd"], Meta(description="the engine")] = "memory"
    max_entries: Annotated[
        int, Meta(ge=1, le=10_000_000, description="ready jobs held per type; the rest wait in the store")
    ] = 10_000
    servers: Annotated[
        list[str],
        Meta(description="the beanstalkds", extra_json_schema={"expected": "a list of at least one HOST:PORT or unix:PATH"}),
    ] = msgspec.field(default_factory=lambda: ["127.0.0.1:11300"])
    max_server_entries: Annotated[int, Meta(ge=1, le=1_000_000_000, description="ready jobs that one beanstalkd may hold")] = (
        200_000
    )
    body_bytes: Annotated[
        int, Meta(ge=0, le=1 * MIB, description="most bytes of a job's data that beanstalkd shows; longer data is left out")
    ] = 1 * KIB


class WorkerSection(Section, frozen=True):
    """[worker]: who runs jobs in this process, or in children of it."""

    modules: Annotated[list[str], Meta(description="modules that hold handlers")] = msgspec.field(
        default_factory=lambda: ["kqs.builtin"]
    )
    types: Annotated[list[str], Meta(description="types whose jobs run here; none: all that have a handler")] = msgspec.field(
        default_factory=list
    )
    concurrency: Annotated[
        int, Meta(ge=0, le=100_000, description="jobs that run at a time, in each process that runs any; 0: only accept")
    ] = 100
    processes: Annotated[int, Meta(ge=0, le=1000, description="child processes that run the jobs; 0: this one does")] = 0
    max_jobs: Annotated[
        int, Meta(ge=0, le=10**12, description="jobs that a child process begins before another takes its place; 0: never")
    ] = 0
    max_rss_bytes: Annotated[
        int,
        Meta(
            ge=0, le=GIB * GIB, description="memory of a child process beyond which another takes its place, in bytes; 0: never"
        ),
    ] = 0
    grace_s: Annotated[
        float,
        Meta(
            ge=-1,
            le=MAX_SECONDS,
            description="how long a stopping server lets runs finish, in seconds; -1: as long as it takes",
        ),
    ] = 10.0


#: the most turns a type may have to another's one. Turns count in 2**32nds of a round (kqs.broker.turns): far below, shares
#: would be rounded, and at last a type would pay nothing for its turns and keep all others waiting.
MAX_WEIGHT = 10_000
#: of one type at a time; more than anything runs
MAX_RUNNING = 1_000_000_000
#: jobs of a type that begin in a while, and the shortest and the longest such while, in s: a ms, and a year
MAX_RATE = 1e9
LEAST_PER_S = 0.001
MAX_PER_S = 366 * 86_400.0


#: subscribers of one type: each insert is so many jobs
MAX_SUBSCRIBERS = 100


def _are_subscribers(types: list[str]) -> bool:
    return len(types) <= MAX_SUBSCRIBERS and len({*types}) == len(types) and all(map(is_type, types))


class TakingSection(Section, frozen=True):
    """What [types.NAME] says of how jobs of the type are taken (kqs.queue.admission)."""

    RULES = {"fan_out": _are_subscribers}

    weight: Annotated[int, Meta(ge=1, le=MAX_WEIGHT, description="its share of turns beside the other types")] = 1
    group_weights: Annotated[
        dict[str, Annotated[int, Meta(ge=1, le=MAX_WEIGHT)]],
        Meta(description="how many of its jobs run in the turn of a group, by group; all others have 1"),
    ] = msgspec.field(default_factory=dict)
    group_max_running: Annotated[
        int, Meta(ge=0, le=1_000_000_000, description="its jobs of one group that run at a time on a server; 0: no limit")
    ] = 0
    max_waiting: Annotated[int, Meta(ge=0, le=10**12, description="most jobs of the type that wait; 0: no limit")] = 0
    drop: Annotated[
        Literal["new", "oldest"],
        Meta(description="beyond that, which go: new ones are refused as busy, or the oldest end as cancelled"),
    ] = "new"
    concurrency: (
        Annotated[int, Meta(ge=0, le=MAX_RUNNING, description="jobs of it that run at a time in this server; none: no limit")]
        | None
    ) = None
    max_running: (
        Annotated[int, Meta(ge=0, le=MAX_RUNNING, description="jobs of it that run at a time in all servers of the store")]
        | None
    ) = None
    rate: (
        Annotated[
            float, Meta(gt=0, le=MAX_RATE, description="jobs of it that begin in per_s seconds, in all servers of the store")
        ]
        | None
    ) = None
    per_s: Annotated[float, Meta(ge=LEAST_PER_S, le=MAX_PER_S, description="the time that rate is counted in, in seconds")] = (
        1.0
    )
    fan_out: Annotated[
        list[str],
        Meta(
            description="its subscribers: types of which an insert becomes one job each, in the place of one of this type",
            extra_json_schema={"expected": f"at most {MAX_SUBSCRIBERS} other types, each once, none with a fan_out"},
        ),
    ] = msgspec.field(default_factory=list)


def _is_callable(command: list[str]) -> bool:
    return bool(command) and bool(command[0]) and not any("\0" in word for word in command)


class CommandSection(Section, frozen=True):
    """What [types.NAME] says of a command that runs its jobs."""

    RULES = {"command": _is_callable}

    command: Annotated[
        list[str],
        Meta(
            description="program and arguments",
            extra_json_schema={"expected": "a list of text without NUL, the first a program: a path, or a name in PATH"},
        ),
    ]
    output_bytes: Annotated[int, Meta(ge=0, le=16 * MIB, description="most bytes a command may write to stdout")] = 1 * MIB
    memory_bytes: Annotated[int, Meta(ge=0, le=GIB * GIB, description="most memory of each of its processes; 0: no limit")] = 0
    cpu_s: Annotated[
        int, Meta(ge=0, le=10**9, description="most CPU time of each of its processes, in seconds; 0: no limit")
    ] = 0
    open_files: Annotated[
        int, Meta(ge=0, le=1_000_000_000, description="most open files of each of its processes; 0: 1024, which it may raise")
    ] = 0


class ScheduleSection(Section, frozen=True):
    """What [schedules.NAME] says of when its job is inserted; the other settings there are the job's own fields."""

    cron: Annotated[str | None, Meta(description="five fields as cron has them, or a macro as @daily")] = None
    every: Annotated[float | None, Meta(description="seconds between two ticks, in the place of cron")] = None
    from_: Annotated[
        float | str | None,
        Meta(
            description="the first tick of every; none: so long after the schedule was first seen",
            extra_json_schema={"expected": "an RFC 3339 time with its zone, or Unix seconds"},
        ),
    ] = msgspec.field(name="from", default=None)
    tz: Annotated[str, Meta(description="time zone of cron, as Europe/Berlin")] = "UTC"
    catch_up: Annotated[CatchUp, Meta(description="which of the ticks that came too late are inserted")] = "one"
    overlap: Annotated[Overlap, Meta(description="whether it ticks while its last job has not ended")] = "allow"


class ScheduleConfig(NamedTuple):
    """One [schedules.NAME]. job: the JSON of its job, checked as an insert's."""

    section: ScheduleSection
    job: str


class LogSection(Section, frozen=True):
    """[log]: what is written to stderr."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="least level written")] = "info"
    format: Annotated[Literal["text", "json"], Meta(description="lines for people, or one JSON object a line")] = "text"


class Config(Section, frozen=True):
    """Every setting. `defaults` and `types` hold option names only, checked, as kqs.options.Cascade takes them.

    types: {TYPE: options}; taking: {TYPE: how its jobs are taken} and commands: {TYPE: command}, which the file gives beside
    them in [types.TYPE]. schedules: by name. folder: what relative paths are taken from.
    """

    server: ServerSection = ServerSection()
    journal: JournalSection = JournalSection()
    store: StoreSection = StoreSection()
    broker: BrokerSection = BrokerSection()
    worker: WorkerSection = WorkerSection()
    log: LogSection = LogSection()
    defaults: dict[str, Any] = msgspec.field(default_factory=dict)
    types: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    taking: dict[str, TakingSection] = msgspec.field(default_factory=dict)
    commands: dict[str, CommandSection] = msgspec.field(default_factory=dict)
    schedules: dict[str, ScheduleConfig] = msgspec.field(default_factory=dict)
    folder: Path = Path()

    @property
    def store_path(self) -> Path:
        """Return where the SQLite store lives."""
        return Path(self.store.uri) if self.store.uri else self.journal.dir / "store.sqlite"


#: the sections that are structs, by name
SECTIONS: dict[str, type[Section]] = {
    "server": ServerSection,
    "journal": JournalSection,
    "store": StoreSection,
    "broker": BrokerSection,
    "worker": WorkerSection,
    "log": LogSection,
}
