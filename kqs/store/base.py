"""The store port: one record per job, the truth about it from the journal to the end of its retention.

What is told of them to whoever asks is in reading.py. What owners have said, and schedules, are kept beside them: see
sayings.py and ticks.py. What operations return is in answers.py.

Every operation takes a batch, and is atomic for each job; an engine may join operations that wait at the same time in one
commit. All methods are called from the loop thread; `ready`, and whatever else looks at records, sees all that was asked for
before. Cancelling a caller does not withdraw the operation.

Every failure is a StoreError. A StoreUnavailableError may pass (full, locked, away; the engine has not given up and takes the
next call). Nothing of the operation was done then, or, where an answer can be lost on its way, nobody knows: the same `insert`
or `report` asked again recognises what was done, and a lost `claim` is undone by the engine, which makes its jobs due anew. A
StoreCorruptError does not pass.

One store may serve several servers, each with a journal of its own. An order is unique on one server only; a job is known by
its id.

A record is in one of four places: ready (waiting, due), later (waiting, due_at ahead), running (claimed), ended. Of all jobs
with the same resource one runs at a time. Those that wait for it are later, too, without a due_at: they are *parked*, and
become ready when they are *called*, the first by (prio, order) when whoever has the resource is over, in whatever way.

A job that waits for others (`Accepted.after`, `Accepted.members`) is later, too, without a due_at: it is *held* until `follow`
lets it go, or ends it. Its `due_at` counts when it is let go. How each of the jobs has ended that it waits for is known as long
as it waits: whatever becomes of their records afterwards, be it that they are retried, dropped or replaced, changes nothing.

A record that does not fit the checksum of what was accepted (see checksum.py) is never run: `claim` and `orphans` end that job
as fail, with an error that says so, and pass it over; `job` shows `null` for its data, and that error. A record that was stored
before there were checksums is taken as it is.

However many jobs are asked for, no more than DATA_BYTES of their data come at once, and one job's. The progress of a job comes
beside that, and has at most MAX_PROGRESS_BYTES.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from kqs.job import Accepted, Claim, Entry, Progress, Report, Rescheduled, Run, Tally
from kqs.store.answers import Following, Granted, Holder, Known, Looked, News, Owner, StoreInfo, Waiting
from kqs.store.change import Change, Changed, Slice, Spans, Verb
from kqs.store.reading import ReadingPort
from kqs.store.rotation import Terms, Turn, Turned
from kqs.store.sayings import SayingsPort
from kqs.store.sharing import Sharing
from kqs.store.ticks import Passed, Schedule, SchedulesPort

#: above every order
MAX_ORDER = 2**63 - 1
#: the error of a job whose record is damaged
DAMAGED = "the stored data is damaged: its checksum does not match"
#: the most data that one `claim` or `orphans` returns beside a single job's, or that `ready` or `wake` shows
DATA_BYTES = 64 * 1024 * 1024
#: runs that a record keeps, the newest: a job that is given back for ever must not grow for ever
MAX_RUNS = 100
#: damaged jobs that one line of the log names
LOGGED = 10
#: a job that was called to take its resource and does not within so long, in s, stops no others: nobody may take its type. A
#: claim takes milliseconds, or as long as lanes are full, and then it is no matter who is first
CALL_S = 1.0
#: ended records that one `look` returns at most, each of which may have a long result
MOST_ENDS = 100
#: a type whose ready jobs have no more priorities than this, nor groups, is asked about by these
LINE_PRIOS = 16
#: the longest data, result or progress that a listing shows
LISTED_BYTES = 1024


class Store(ReadingPort, SayingsPort, SchedulesPort, Protocol):
    """See the module docstring. `tests/contract/store_contract.py` states every promise as a test.

    is_shared: other servers may work on the same jobs.
    sharing: what they share of the limits of types; None: there are no others.
    on_called: given jobs whose turn it is to have their resource, which are ready; as soon as that is committed, before whoever
    asked for what freed it hears of it. Of a job with a resource that waits again at once after a report, nobody else tells.
    on_followed: told that `follow` has something to do: a job has ended that another one waits for, or the last of a batch.
    on_waiting: given how many jobs wait of the types that are watched (`watch`), whenever that has changed: before whoever
    asked for what changed it hears of it, and first before `open` returns. Every job of theirs that an `insert` was given is
    told once, as taken, when it is counted, or known, or joined. A store that is shared tells what other servers do some
    seconds late.
    """

    is_shared: bool
    sharing: Sharing | None
    on_called: Callable[[list[Entry]], None]
    on_followed: Callable[[], None]
    on_waiting: Callable[[Waiting], None]

    def watch(self, types: Collection[str]) -> None:
        """Tell from `open` on, which comes after this, how many jobs of these types wait (`on_waiting`)."""
        ...

    @property
    def is_first(self) -> bool:
        """Tell whether what one server of the store is enough for is this one's to do. There may be two for a while."""
        ...

    def owner(self) -> Owner | None:
        """Return whose the store is, before `open`; blocks. None: it is nobody's yet, or servers share it.

        Raises: StoreError.
        """
        ...

    async def open(self, journal_id: str, node: str) -> StoreInfo:
        """Open or create the store for the journal `journal_id` (32 hex digits), whose ids end in `node`.

        Raises: StoreCorruptError: damaged, newer version, or what has this node belongs to another journal.
        """
        ...

    async def close(self) -> None:
        """Finish what was asked, make it durable, close. Idempotent; tolerates never opened."""
        ...

    async def insert(self, jobs: Sequence[Accepted], fed_seq: int, worker: str, now: float) -> Known:
        """Store new jobs, and with or after them that the journal is fed up to `fed_seq` (exclusive).

        A job whose id (or order) is known changes nothing; so does one whose given id is the id made for another job. But a
        record that was over (its drop_at had come) when the job with its id was accepted makes room for it: whoever could not
        see the one any more has a new job. No replay does that: a record is never replaced by what was accepted before it, nor
        while another server's journal could bring it back, for then `job` shows it still; nor by an adopted job.
        A job with a `unique` key is not stored, but joined, while another of its type and key waits, from whatever server that
        came, and has not expired by `now`; one that runs does not wait. Of several in `jobs` the first is stored, even if it is
        claimed. An id that is known is so before the key is asked for. After a `sync` no replay decides anew.
        Jobs with `claimed_at` are stored as attempt 1, running since then by their own `worker` or by this one, or, with an
        `end`, as what `report` would have made of that; what is stored with an end is as durable as a report before this
        returns. Others with due_at > now go to later (delayed), the rest to ready (new). `jobs` may be empty (only fed_seq
        moves), and fed_seq never goes back. The jobs survive a crash of the process at once, of the machine after `sync` or
        `report`; fed_seq is sure to survive after `sync`.
        A job whose resource another one has, or has a right to, is parked instead of claimed or ready: then `parked` has it.
        A job with `after` is held, if one of those jobs has neither ended well nor, where any end will do, ended; what is not
        there counts as deleted. What ended badly is for `follow`: it fails then. Those of `jobs` may wait for each other in any
        order; whoever waits for one that is joined waits for the job that this is joined to. The others go where they would.
        A job with `members` is held until its batch is complete: closed, and all members have ended. Members name it by its id,
        in this call or any later one. They count as they are stored; one that is known or joined does not. Of a batch that is
        complete, or not there, a job is no member: it is stored without.
        A job with a `tick` is stored only if its schedule has not passed that instant, which it has then, with the job: so each
        is stored once, from whatever server and journal, and even if no record is left. One that is not counts as known; where
        there is no schedule of the name any more, the id alone decides.
        Returns: the orders of `jobs` that were already known or joined, so not stored, in no special order; [] as a rule. After
        an attempt at the same insert that failed, `made` has those of them which that stored.
        """
        ...

    async def claim(
        self,
        entries: Sequence[Entry],
        worker: str,
        now: float,
        keep_damaged_s: float | None = None,
        held: bool = False,
        most_bytes: int | None = None,
    ) -> Granted:
        """Claim each ready job for a new attempt (attempt + 1, this epoch); return the runs granted, in entry order.

        Entries that are not ready any more (running, ended, later, gone) are passed over. Those whose data would exceed
        `most_bytes` (None: DATA_BYTES) together with the others' are `left`, and stay as they are; the first ready one never
        is. Whether a job may run now is no question of the store's (kqs.queue.admission), but for its resource: while another
        job runs with the same, or was called for it before, it is not granted, and parked until it is called (`on_called`).
        Need only survive a crash of the process. Run.handle is taken over from the entry. A run comes with the job's progress;
        one that is damaged is none.

        Args: keep_damaged_s: the retention of jobs that end as damaged, in s from now; None for ever. held: the runs outlive
            this server (see `adopt`).
        """
        ...

    async def adopt(self, runs: Sequence[Run]) -> list[bool]:
        """Watch over held runs that `orphans` gave: they go on under the claims that they have.

        Returns: per run, whether it is watched from here now; False: it has ended, or another server was first.
        """
        ...

    async def take(self, claim: Claim) -> Run | None:
        """Watch over a held run in the place of another server that does: it goes on under its claim. Its data may be left out.

        Returns: None: it has ended, or is not held, or there are no other servers: nothing was changed.
        """
        ...

    async def save(self, saved: Sequence[Progress], *, durable: bool) -> list[bool]:
        """Keep how far runs are, in the place of what was kept of their jobs before; a later one of a run wins.

        It survives a crash of the process when this returns, of the machine after `sync` or `report`, or at once if `durable`,
        and with it all that was saved before. It stays, whatever becomes of the run, until a report says otherwise.
        Returns: per run, whether its claim is the running one; else it is stale, and nothing was changed.
        """
        ...

    async def report(self, reports: Sequence[Report]) -> Sequence[bool | None]:
        """Apply the ends of runs; durable before it returns.

        Returns: per report, True if its claim (attempt and epoch) was the running one and the record was changed; False if
        stale. A repeated FINAL report of the attempt that ended the job is True again and changes nothing.
        None: the running job has been cancelled meanwhile (`change`), and such a run ends it as SUCCESS or CANCELLED and in no
        other way: nothing was changed, and whoever reports it does that again, as CANCELLED.
        The run that ended joins `runs` (the newest MAX_RUNS are kept); a waiting state goes to later if it has a due_at, else
        to ready. After a report that no run has begun (`has_begun`), the record is as if it had not been claimed: no attempt
        is counted and no run told; but the next claim is another one all the same.
        With a `prio` the job has that from then on, and its checksum moves along, so that what is damaged is so afterwards.
        One that is true only `by_watcher` is stale, too, if another server has taken the run over.
        With its report a run has no resource any more, were that stale since its job was deleted.
        Reports of one batch that differ in nothing but their claim and type are the cheapest.
        """
        ...

    async def ready(self, type_: str, after: tuple[int, int] | None, limit: int, body_bytes: int | None = None) -> list[Entry]:
        """Return up to `limit` ready jobs of a type by (prio, order), beginning after the rank `after`.

        All jobs of one rank come together, even beyond `limit`. Unless `body_bytes` is None, they come with their options,
        and with data of up to so many bytes, and up to its share of DATA_BYTES, that does not live apart.
        """
        ...

    async def grouped_types(self, among: Collection[str]) -> list[str]:
        """Return those of some types of which ready jobs wait that have a group."""
        ...

    async def in_turn(self, type_: str, turn: Turn, count: int, terms: Terms) -> Turned:
        """Return the next up to `count` ready jobs of a type that have a group, as the groups' turns go from `turn` on.

        Within a group they come by (prio, order). Nothing is claimed by it. It may be fewer although there are more: as many
        as all groups that wait could share, each in equal parts. Those without a group are only counted; `ready` has them.
        """
        ...

    async def wake(self, before: float, limit: int, body_bytes: int | None = None) -> list[Entry]:
        """Move up to `limit` waiting jobs with due_at <= before from later to ready, earliest first; return them.

        body_bytes: as for `ready`.
        """
        ...

    async def reschedule(self, changes: Sequence[Rescheduled]) -> None:
        """Give waiting jobs other times; one that does not wait any more, or whose times are others, is passed over.

        Of jobs that other servers of a shared store have accepted, only the wait after a run changes.
        """
        ...

    async def next_due_at(self) -> float | None:
        """Return the earliest due_at among later jobs, or None."""
        ...

    async def expire(
        self, now: float, limit: int, drop_after_s: float | None, by_type: Mapping[str, float | None] | None = None
    ) -> list[str]:
        """End up to `limit` waiting jobs with expire_at <= now as fail, error `expired`; return their ids.

        Their retention, in s from now, None for ever: the `keep` in the job's own options (-1: for ever), else what
        `by_type` says for its type, else `drop_after_s`.
        """
        ...

    async def next_expire_at(self) -> float | None:
        """Return the earliest expire_at among waiting jobs, or None."""
        ...

    async def call_on(self, now: float) -> float | None:
        """Call others for free resources that nobody has taken within `CALL_S`; return when to ask again, None: when called.

        Whoever was called may still come, and have the resource if it is first. It also finds, after a start or trouble, what
        is parked for a resource that is free.
        """
        ...

    async def follow(
        self, now: float, drop_after_s: float | None, by_type: Mapping[str, float | None] | None = None
    ) -> Following:
        """Do a slice of what the ends of jobs mean for those that wait for them; it takes some ms.

        A job is let go when all that it waits for have succeeded, or ended, where any end will do: `on_called` tells it, or it
        is later until its due_at. It fails (as by Event.EXPIRE, ended at `now`) as soon as one has failed, or was cancelled or
        deleted, with an error that names it; whatever waits for it follows. What is to be done is known as durably as the end
        it follows from, and survives as that does. Args: as for `expire`.
        """
        ...

    async def seal_batch(self, batch_id: str) -> bool:
        """Have `batches` say that no more jobs may join a batch, which still takes those that join; durable before it returns.

        Idempotent. Returns: False: there is no batch of this id.
        """
        ...

    async def close_batch(self, batch_id: str) -> Tally | None:
        """Let no more jobs into an open batch; durable before it returns. Idempotent.

        Returns: how it stands; None: there is no batch of this id.
        """
        ...

    async def orphans(self, limit: int, keep_damaged_s: float | None = None) -> list[Run]:
        """Return up to `limit` runs whose worker is dead, at least one if there are any; `report` accepts their claims.

        They were claimed in an earlier epoch of this server, or by another one whose lease ran out. keep_damaged_s: as for
        `claim`. Their progress may be NO_PROGRESS, where there is some.
        """
        ...

    async def change(self, change: Change, after: object | None, first_order: int) -> Slice:
        """Do one slice of what an owner asks of all jobs that fit `change.wanted`, beginning where the last slice says.

        It looks at LOOKED records at most (and reads about LOOKED_BYTES of data, where a pattern is to be found in it) and
        changes SLICE of those that fit; it is done as a whole or not at all, and survives a crash of the process at once, of
        the machine after `sync` or `report`. Nothing that it deleted or ended comes back by a replay of any journal.
        A record that is over (see `job`) fits nothing. One that fits from the first slice to the last is met just once; what
        comes to fit meanwhile, or ceases to, may be met. Many records that do not fit cost slices that change nothing; but
        only those asked for are looked at where the filter names ids, the waiting jobs of one type, or states but not
        nearly all.

        CANCEL: a waiting job ends (next_state) with the error `change.error`, ended_at `change.now`, drop_at by `change.keep`.
        A running one gets its cancel_at, which goes when the run ends (see `report`); nothing else changes, and its claim is
        told. One that has a cancel_at already is not changed, nor is what has ended.
        RETRY: of what has failed or was cancelled, that which ended at `change.now` or before. State by next_state, ready at
        once; counters 0; error, result, due_at, ended_at, drop_at None; expire_at anew from `change.expire`. Attempt,
        accepted_at and progress stay, and the last run joins the earlier ones in `runs`. The job stands at the tail: its
        order is a new one, `first_order` for the first that the slice changes, one more for each that follows, in the order
        in which they were met. `Changed.order` is the old one, `Slice.ready` has the new. The id stays, and a replay of the
        job's insert changes nothing, as ever. The checksum moves along, so that what is damaged is so afterwards.
        What waited for others asks them again, as if it were inserted: what is held then is not in `ready`. A member of a batch
        is none from then on: it has counted. Who waits for a job that is retried knows of its end, or waits for the next.
        DELETE: waiting and ended jobs are gone, with all that is beside them. A running one is `skipped`, or with `is_forced`
        gone too: its claim is told, and what its run reports is stale. Until then, or until who watches over it is dead, the
        run has its resource.
        """
        ...

    async def news(self) -> News:
        """Return what other servers have done that this one must know of, or want to know; asked a few times a second.

        Nothing of it is lost when this fails, or takes longer. In a store that is not shared there is none.
        """
        ...

    async def answer(self, question: int) -> None:
        """Let whoever asked know that all is stored which was accepted here before `news` told of the question."""
        ...

    async def others_caught_up(self, node: str | None) -> Mapping[str, int]:
        """Return when each other server that lives has stored what it had accepted before this call, and the ends of its runs.

        Args: node: only the server whose ids end so.
        Returns: by the node of those that said so, above which order it has accepted a job later.
        Raises: StoreUnavailableError: one does not say so in time; it may be cut off, or dead since a moment ago.
        """
        ...

    async def sweep(self, now: float, limit: int, before_order: int) -> int:
        """Delete up to `limit` ended records whose drop_at <= now and order < before_order; return how many.

        `before_order`: nothing of this journal at or above it may go, since its segment still stands and could be replayed.
        """
        ...

    async def trim_successes(self, keep_count: int, limit: int, before_order: int) -> int:
        """Delete ended successes beyond `keep_count`, at most `limit`; as `sweep` otherwise.

        Those nearest their drop_at go first, then, oldest first, those without one.
        """
        ...

    async def sync(self) -> int:
        """Make everything committed so far survive a power cut; return the fed_seq that is durable."""
        ...

    async def check(self) -> None:
        """See that a start would find what is kept now. Raises: StoreUnavailableError: files were taken away from under it."""
        ...

    def owed_bytes(self) -> int:
        """Return how much more of the disk it may need until all that it holds has ended; 0 if it is on none.

        Call from any thread: the disk is asked, and may take its time.
        """
        ...

    def give_back(self) -> None:
        """Give the disk what the store holds of it and does not need, soon; for when inserts are refused for want of room."""
        ...


__all__ = [
    "CALL_S",
    "DAMAGED",
    "DATA_BYTES",
    "LOGGED",
    "MAX_RUNS",
    "MOST_ENDS",
    "Change",
    "Changed",
    "Claim",
    "Following",
    "Granted",
    "Holder",
    "Known",
    "Looked",
    "News",
    "Owner",
    "Passed",
    "Schedule",
    "Slice",
    "Spans",
    "Store",
    "StoreInfo",
    "Verb",
    "Waiting",
]
