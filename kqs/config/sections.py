"""Every setting: its type, range, unit and default. One frozen model a section."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

from kqs.options import MAX_SECONDS, is_type

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_BEANSTALKD = re.compile(r"unix:/\S+|(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")


class Section(BaseModel):
    """A frozen section; types are strict, since "14151" for a port is a slip."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ServerSection(Section):
    """[server]: where calls come in, and what one connection may ask for."""

    host: str = Field(
        default="localhost",
        description="name or address to listen on; localhost is 127.0.0.1 and ::1; empty: none, only the UNIX socket",
    )
    port: int = Field(default=14151, ge=0, le=65535, description="TCP port; 0 takes a free one")
    socket: str = Field(default="", max_length=107, description="path of a UNIX socket to listen on as well; empty: none")
    socket_mode: str = Field(
        default="0600",
        pattern=r"^0?[0-7]{3}$",
        description="who may use that socket, as chmod takes it",
        json_schema_extra={"expected": 'permissions in octal, as "0660"'},
    )
    socket_group: str = Field(default="", max_length=32, description="group of that socket; empty: the server's own")
    max_line_bytes: int = Field(default=16 * MIB, ge=64, le=512 * MIB, description="longest line accepted, in bytes")
    max_connections: int = Field(default=10_000, ge=1, le=1_000_000, description="connections open at a time")
    max_in_flight: int = Field(
        default=4096,
        ge=1,
        le=1_000_000,
        description="calls of one connection that wait for their answers before it is read no further",
    )
    max_insert_jobs: int = Field(default=100_000, ge=1, le=1_000_000, description="jobs in the array of one insert")
    namespace: str = Field(
        default="",
        max_length=32,
        pattern=r"^([A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)?$",
        description="stands in the names of what is shared with other fleets",
        json_schema_extra={"expected": "at most 32 letters, digits, '_', '-', or single '.' inside"},
    )
    allow_public: bool = Field(
        default=False, description="listen beyond loopback, where anybody who reaches the port may use it"
    )


class JournalSection(Section):
    """[journal]: where accepted jobs are flushed before they are answered."""

    dir: Path = Field(
        default=Path("journal"),
        strict=False,
        description="folder of the journal, relative to the working directory of the start",
    )
    segment_bytes: int = Field(
        default=64 * MIB, ge=1 * KIB, le=16 * GIB, description="size at which a new segment begins, in bytes"
    )
    min_free_bytes: int = Field(
        default=256 * MIB,
        ge=0,
        le=GIB * GIB,
        description="free disk space, beyond as much as the store has yet to take, below which inserts are refused, in bytes",
    )
    batch_bytes: int = Field(default=1 * MIB, ge=1, le=256 * MIB, description="most bytes in one flush")
    batch_records: int = Field(default=1000, ge=1, le=100_000, description="most records in one flush")


class StoreSection(Section):
    """[store]: what is known about each job, and for how long."""

    kind: Literal["sqlite", "mongodb"] = Field(default="sqlite", description="the engine")
    uri: str = Field(
        default="",
        description="sqlite: path of its file, empty: store.sqlite in the journal's folder; mongodb: its URI, empty: mongodb://localhost",
    )
    bulk_bytes: int = Field(
        default=64 * KIB, ge=0, le=1 * GIB, description="payloads above this live apart from the record, in bytes"
    )
    keep_success_s: float = Field(
        default=3600.0, ge=-1, le=MAX_SECONDS, description="how long a succeeded job's record is kept, in seconds; -1: for ever"
    )
    keep_success_count: int = Field(
        default=1_000_000, ge=0, le=10**12, description="most succeeded jobs kept; the oldest go first"
    )
    keep_fail_s: float = Field(
        default=-1.0, ge=-1, le=MAX_SECONDS, description="how long a failed job's record is kept, in seconds; -1: for ever"
    )
    cache_bytes: int = Field(default=32 * MIB, ge=1 * MIB, le=64 * GIB, description="page cache of the engine, in bytes")


class BrokerSection(Section):
    """[broker]: which jobs are ready, and in what order."""

    kind: Literal["memory", "beanstalkd"] = Field(default="memory", description="the engine")
    max_entries: int = Field(
        default=10_000, ge=1, le=10_000_000, description="ready jobs held per type; the rest wait in the store"
    )
    servers: list[str] = Field(
        default=["127.0.0.1:11300"],
        description="the beanstalkds",
        json_schema_extra={"expected": "a list of at least one HOST:PORT or unix:PATH"},
    )
    max_server_entries: int = Field(
        default=200_000, ge=1, le=1_000_000_000, description="ready jobs that one beanstalkd may hold"
    )
    body_bytes: int = Field(
        default=1 * KIB,
        ge=0,
        le=1 * MIB,
        description="most bytes of a job's data that beanstalkd shows; longer data is left out",
    )

    @field_validator("servers")
    @classmethod
    def _are_addresses(cls, servers: list[str]) -> list[str]:
        if not servers or not all(_BEANSTALKD.fullmatch(server) for server in servers):
            raise ValueError("not addresses")
        return servers


class WorkerSection(Section):
    """[worker]: who runs jobs in this process, or in children of it."""

    modules: list[str] = Field(default=["kqs.builtin"], description="modules that hold handlers")
    types: list[str] = Field(default=[], description="types whose jobs run here; none: all that have a handler")
    concurrency: int = Field(
        default=100, ge=0, le=100_000, description="jobs that run at a time, in each process that runs any; 0: only accept"
    )
    processes: int = Field(default=0, ge=0, le=1000, description="child processes that run the jobs; 0: this one does")
    max_jobs: int = Field(
        default=0, ge=0, le=10**12, description="jobs that a child process begins before another takes its place; 0: never"
    )
    max_rss_bytes: int = Field(
        default=0,
        ge=0,
        le=GIB * GIB,
        description="memory of a child process beyond which another takes its place, in bytes; 0: never",
    )
    grace_s: float = Field(
        default=10.0,
        ge=-1,
        le=MAX_SECONDS,
        description="how long a stopping server lets runs finish, in seconds; -1: as long as it takes",
    )


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


class TakingSection(Section):
    """What [types.NAME] says of how jobs of the type are taken (kqs.queue.admission)."""

    weight: int = Field(default=1, ge=1, le=MAX_WEIGHT, description="its share of turns beside the other types")
    group_weights: dict[str, Annotated[int, Field(ge=1, le=MAX_WEIGHT)]] = Field(
        default={}, description="how many of its jobs run in the turn of a group, by group; all others have 1"
    )
    group_max_running: int = Field(
        default=0, ge=0, le=1_000_000_000, description="its jobs of one group that run at a time on a server; 0: no limit"
    )
    max_waiting: int = Field(default=0, ge=0, le=10**12, description="most jobs of the type that wait; 0: no limit")
    drop: Literal["new", "oldest"] = Field(
        default="new", description="beyond that, which go: new ones are refused as busy, or the oldest end as cancelled"
    )
    concurrency: int | None = Field(
        default=None, ge=0, le=MAX_RUNNING, description="jobs of it that run at a time in this server; none: no limit"
    )
    max_running: int | None = Field(
        default=None, ge=0, le=MAX_RUNNING, description="jobs of it that run at a time in all servers of the store"
    )
    rate: float | None = Field(
        default=None, gt=0, le=MAX_RATE, description="jobs of it that begin in per_s seconds, in all servers of the store"
    )
    per_s: float = Field(default=1.0, ge=LEAST_PER_S, le=MAX_PER_S, description="the time that rate is counted in, in seconds")
    fan_out: list[str] = Field(
        default=[],
        description="its subscribers: types of which an insert becomes one job each, in the place of one of this type",
        json_schema_extra={"expected": f"at most {MAX_SUBSCRIBERS} other types, each once, none with a fan_out"},
    )

    @field_validator("fan_out")
    @classmethod
    def _are_types(cls, subscribers: list[str]) -> list[str]:
        if len(subscribers) > MAX_SUBSCRIBERS or len({*subscribers}) < len(subscribers) or not all(map(is_type, subscribers)):
            raise ValueError("not types")
        return subscribers


class CommandSection(Section):
    """What [types.NAME] says of a command that runs its jobs."""

    command: list[str] = Field(
        description="program and arguments",
        json_schema_extra={"expected": "a list of text without NUL, the first a program: a path, or a name in PATH"},
    )
    output_bytes: int = Field(default=1 * MIB, ge=0, le=16 * MIB, description="most bytes a command may write to stdout")
    memory_bytes: int = Field(default=0, ge=0, le=GIB * GIB, description="most memory of each of its processes; 0: no limit")
    cpu_s: int = Field(default=0, ge=0, le=10**9, description="most CPU time of each of its processes, in seconds; 0: no limit")
    open_files: int = Field(
        default=0, ge=0, le=1_000_000_000, description="most open files of each of its processes; 0: 1024, which it may raise"
    )

    @field_validator("command")
    @classmethod
    def _is_callable(cls, command: list[str]) -> list[str]:
        if not command or not command[0] or any("\0" in word for word in command):
            raise ValueError("not a command")
        return command


class ScheduleSection(Section):
    """What [schedules.NAME] says of when its job is inserted; the other settings there are the job's own fields."""

    cron: str | None = Field(default=None, description="five fields as cron has them, or a macro as @daily")
    every: float | None = Field(default=None, description="seconds between two ticks, in the place of cron")
    from_: float | str | None = Field(
        default=None,
        alias="from",
        description="the first tick of every; none: so long after the schedule was first seen",
        json_schema_extra={"expected": "an RFC 3339 time with its zone, or Unix seconds"},
    )
    tz: str = Field(default="UTC", description="time zone of cron, as Europe/Berlin")
    catch_up: Literal["one", "skip", "all"] = Field(
        default="one", description="which of the ticks that came too late are inserted"
    )
    overlap: Literal["allow", "skip"] = Field(default="allow", description="whether it ticks while its last job has not ended")


class ScheduleConfig(NamedTuple):
    """One [schedules.NAME]. job: the JSON of its job, checked as an insert's."""

    section: ScheduleSection
    job: str


class LogSection(Section):
    """[log]: what is written to stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least level written")
    format: Literal["text", "json"] = Field(default="text", description="lines for people, or one JSON object a line")


class Config(Section):
    """Every setting. `defaults` and `types` hold option names only, checked, as kqs.options.Cascade takes them.

    types: {TYPE: options}; taking: {TYPE: how its jobs are taken} and commands: {TYPE: command}, which the file gives beside
    them in [types.TYPE]. schedules: by name. folder: what relative paths are taken from.
    """

    server: ServerSection = Field(default=ServerSection())
    journal: JournalSection = Field(default=JournalSection())
    store: StoreSection = Field(default=StoreSection())
    broker: BrokerSection = Field(default=BrokerSection())
    worker: WorkerSection = Field(default=WorkerSection())
    log: LogSection = Field(default=LogSection())
    defaults: dict[str, Any] = Field(default={})
    types: dict[str, dict[str, Any]] = Field(default={})
    taking: dict[str, TakingSection] = Field(default={})
    commands: dict[str, CommandSection] = Field(default={})
    schedules: dict[str, ScheduleConfig] = Field(default={})
    folder: Path = Field(default=Path())

    @property
    def store_path(self) -> Path:
        """Return where the SQLite store lives."""
        return Path(self.store.uri) if self.store.uri else self.journal.dir / "store.sqlite"


#: the sections that are models, by name
SECTIONS: dict[str, type[Section]] = {
    "server": ServerSection,
    "journal": JournalSection,
    "store": StoreSection,
    "broker": BrokerSection,
    "worker": WorkerSection,
    "log": LogSection,
}
