"""The tables of a store, and whose they are.

`jobs` holds one row per job. `ord` is Accepted.order, so new rows go to the right edge of the tree and a server-made id needs
no index. Long columns stand last: SQLite need not walk their overflow pages to read the short ones. Every index is partial, so
that a plain row stands in one of them at a time and ended rows are out of the way of ready ones.

A change of them raises SCHEMA_VERSION, and adds the step from the version before to upgrades.py.
"""

from __future__ import annotations

import sqlite3
from enum import IntEnum

SCHEMA_VERSION = 8


class Place(IntEnum):
    """Where a job stands. The numbers are stored and written out in the indexes; below RUNNING are those that wait.

    GROUPED: it is ready, in the line of its group (kqs.store.sqlite.groups).
    """

    GROUPED = -1
    READY = 0
    LATER = 1
    RUNNING = 2
    ENDED = 3


PROGRESS = "create table if not exists progress (ord integer primary key, crc32c integer not null, data blob not null)"
# jobs whose due time nobody knows but who has their resource: place LATER, no due_at
PARKED = """
create table if not exists parked (
  resource text not null, type text not null, prio integer not null, ord integer not null,
  primary key (resource, type, prio, ord)
) without rowid"""
SUSPENDED = "create table if not exists suspended (type text not null primary key, since real not null) without rowid"
SAID = (
    "create table if not exists said (topic integer not null, type text not null, text blob not null, "
    "primary key (topic, type)) without rowid"
)
SUBSCRIPTIONS = (
    "create table if not exists subscriptions (type text not null, subscriber text not null, "
    "primary key (type, subscriber)) without rowid"
)
UNIQUES = (
    "create table if not exists uniques (type text not null, key text not null, ord integer not null, "
    "primary key (type, key, ord)) without rowid",
    "create index if not exists uniques_ord on uniques (ord)",
)
# who waits for whom, as long as it does; and what has ended of what somebody waits for, until that is followed (follow.py)
AWAITED = (
    "create table if not exists awaited (parent text not null, child integer not null, primary key (parent, child)) "
    "without rowid",
    "create index if not exists awaited_child on awaited (child)",
)
PASSED = "create table if not exists passed (parent text not null primary key, outcome integer not null) without rowid"
# see batches.py
BATCHES = (
    """
create table if not exists batches (
  id text not null primary key,
  ord integer not null,       -- under which its `then` stands
  first_ord integer not null, -- under which that was stored
  is_open integer not null,
  last_order integer not null, -- of its own record; complete only when that is reached
  reached integer not null,
  made integer not null default 0,
  success integer not null default 0,
  fail integer not null default 0,
  cancelled integer not null default 0,
  deleted integer not null default 0,
  is_complete integer not null default 0
) without rowid""",
    "create index if not exists batches_ord on batches (ord)",
)
# who is ready and has a group, and some who have gone (groups.py)
LINE = """
create table if not exists line (
  of_type text not null, name text not null, rank integer not null, job integer not null, -- the job's type, grp, prio, ord
  primary key (of_type, name, rank, job)
) without rowid"""
_IS_READY = f"new.place = {Place.GROUPED:d}"
# no "or ignore": the statement that fires the trigger may have another say about that
_IN = f"insert into line select new.type, new.grp, new.prio, new.ord where {_IS_READY} on conflict do nothing"
_OUT = "delete from line where of_type = old.type and name = old.grp and rank = old.prio and job = old.ord"
# a job that is claimed stays; whoever inserts a row into `leaving` lets all leave their line up to there
_LINE_FOLLOWS = (
    f"create trigger if not exists line_new after insert on jobs when {_IS_READY} begin {_IN}; end",
    f"create trigger if not exists line_moved after update of place, prio on jobs "
    f"when {_IS_READY} or (old.place = {Place.GROUPED:d} and new.place <> {Place.RUNNING:d}) begin {_OUT}; {_IN}; end",
    f"create trigger if not exists line_gone after delete on jobs when old.place = {Place.GROUPED:d} begin {_OUT}; end",
    "create view if not exists leaving as select of_type, name, rank, job from line",
    """
create trigger if not exists line_leaving instead of insert on leaving begin
  delete from line where of_type = new.of_type and name = new.name and (rank, job) <= (new.rank, new.job);
end""",
)
SCHEDULES = """
create table if not exists schedules (
  name text not null primary key,
  plan text not null,
  origin text not null,
  created_at real not null,
  since real not null,
  revision integer not null,
  passed_at real not null, -- no instant up to here is inserted any more
  tick_at real not null,   -- the last one that was
  missed integer not null,
  skipped integer not null,
  suspended_at real,
  nodes text not null
) without rowid"""

_TABLES = f"""
create table jobs (
  ord integer primary key,
  place integer not null default 0,
  state integer not null default 0,
  type text not null,
  prio integer not null,
  attempt integer not null default 0,  -- claims so far; with epoch it is the fence, so it never goes back
  returned integer not null default 0, -- those of them that were given back before their run began
  epoch integer,
  failures integer not null default 0,
  ghosts integer not null default 0,
  interrupted integer not null default 0,
  accepted_at real, -- only where ord does not tell it
  started_at real,
  ended_at real,
  due_at real,
  drop_at real,
  expire_at real,
  worker text,
  watcher integer, -- the epoch of the boot that watches over it, where its run outlives the one that claimed it
  id text,        -- only when the client gave it
  run_state text, -- of the run that ended the job, where it is not the word of `state`
  options blob,
  error text,
  result blob,
  runs text,      -- earlier runs, a JSON array a line; the last one stands in the columns above while started_at is set
  data blob,      -- null: in `bulk`
  crc32c integer, -- see checksum.py; null: stored before there were any, up to `meta.unchecked_to`.
                  -- Above its 32 bits those of grp and unique_key, but for what was stored up to `meta.unkeyed_to`
  resource text,  -- no other job with it runs at the same time
  unique_key text, -- see uniques.py
  cancel_at real, -- when it was cancelled while it ran; means nothing once its run is over
  grp text,       -- its group
  after_ids text, -- which jobs it waits for: see follow.py
  batch text      -- of which batch it is a member
);
create unique index ids on jobs (id) where id is not null;
create index ready on jobs (type, prio, ord) where place = 0;
create index later on jobs (due_at) where place = 1;
create index running on jobs (epoch) where place = 2;
create index ended on jobs (state, drop_at) where place = 3;
create index expiring on jobs (expire_at) where place < 2 and expire_at is not null;

create table bulk (ord integer primary key, crc32c integer not null, data blob not null);

{PROGRESS};

{PARKED};

{SUSPENDED};
{SAID};
{SUBSCRIPTIONS};
{UNIQUES[0]};
{UNIQUES[1]};
{SCHEDULES};
{AWAITED[0]};
{AWAITED[1]};
{PASSED};
{BATCHES[0]};
{BATCHES[1]};
{LINE};

create table tallies (type text not null, state integer not null, n integer not null, primary key (type, state)) without rowid;

create table meta (
  one integer primary key check (one = 1),
  journal_id text not null,
  node text not null,
  epoch integer not null,
  fed_seq integer not null,
  last_order integer not null,
  unchecked_to integer not null default 0,
  has_resources integer not null default 0, -- whether any job ever had one
  has_groups integer not null default 0,    -- likewise
  unkeyed_to integer not null default 0
);
"""


def create(db: sqlite3.Connection) -> None:
    """Make them, in a file without any."""
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            db.execute(statement)


def follow_lines(db: sqlite3.Connection) -> None:
    """Let whoever becomes ready, and has a group, stand in its line from now on. Idempotent."""
    for statement in _LINE_FOLLOWS:
        db.execute(statement)
