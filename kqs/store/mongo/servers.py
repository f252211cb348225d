"""Who uses this database: one document a journal, and which of their boots are alive.

    _id            the journal's id
    node           the ending of its ids, 8 hex digits
    epoch          its newest boot
    is_open        False once that boot ended in good order
    doubts         True where that boot ended before it was sure of the totals (tallies.py)
    beat           grows with every heartbeat
    fed_seq        the journal seq up to which (exclusive) everything is stored
    last_order     the highest order ever stored
    decided_order  the order up to which all jobs of its journal are stored or refused
    bell           grows when another server has cancelled or deleted what this one runs, or suspended or resumed a type
    called_off     {job, order, attempt, epoch, type, prio, returned} of such runs whose records others have replaced, until it
                   knows so and, where they have a resource, they are over
    held           grows when another server has made jobs that wait for others, and has not said so for some seconds
    asked, answered  see questions.py
    journal_order  the first order that its journal could bring back: what it stored before can never be replayed

A server is dead when its beat has stood still for LEASE_S on the clock of whoever looks, so that no two machines' clocks are
ever compared. Only time in which one looks often enough counts: when the database comes back after an hour, nobody is dead yet.
Declaring a living server dead costs a second run of its jobs, no more: the fence refuses its reports.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from pymongo import ReturnDocument, UpdateOne
from pymongo.errors import DuplicateKeyError

from kqs.errors import StoreCorruptError
from kqs.job import Claim
from kqs.store.mongo.client import Document
from kqs.store.mongo.collections import Collections
from kqs.store.mongo.documents import made_before

#: between two heartbeats, in s
BEAT_S = 5.0
#: without one for so long, in s, a server's runs are given to others; several beats, and longer than a fail-over takes
LEASE_S = 30.0


#: a server of several looks for cancelled runs so often, in s, though nobody has rung: who should have may have died
LISTEN_S = 2.5
#: runs that a server is told of apart, the newest ones: far fewer, unless it has not looked for long. They must fit into its
#: document, which holds 16 MB
CALLED_OFF = 10_000
#: in which fields others tell a server of something
_HEARD = ["bell", "called_off", "asked", "answered", "held"]


class _Sighting:
    """When a beat was first and last seen, on our monotonic clock in s."""

    __slots__ = ("beat", "first", "last")

    def __init__(self, beat: int, now: float) -> None:
        self.beat = beat
        self.first = self.last = now


class Servers:
    """Our own document, and a look at the others'. How far we are is written with `beat`."""

    def __init__(self, collections: Collections, journal_id: str, node: str, monotonic: Callable[[], float]) -> None:
        self._servers = collections.servers
        self._journal_id = journal_id
        self._node = node
        self._monotonic = monotonic
        self._sightings: dict[int, _Sighting] = {}
        self._living: set[int] = set()
        # boots that have left something to be looked at; and those for which we have: who is the eldest may change meanwhile
        self._owing: set[int] = set()
        self._looked_after: set[int] = set()
        self._looked_at = monotonic()
        self._beat_at = monotonic()
        self.epoch = 0
        self.fed_seq = 0
        self.last_order = 0
        #: the highest order that came from the journal, not from a retry
        self.fed_order = 0
        self._decided_order = 0
        self._journal_order = 0
        #: the last boot of our journal did not end in good order, or in doubt
        self.was_killed = False
        #: conditions, of which a record meets one that no journal but ours can bring back, as far as we know: it makes room
        #: for a new job of its id once it is over
        self.replaceable: list[Document] = [{"node": node}]
        #: runs whose cancellation their queue here knows of
        self.told: set[Claim] = set()
        #: those whose deletion it knows of
        self.told_gone: set[Claim] = set()
        #: runs of ours, as `call_off` tells them
        self.called_off: list[Document] = []
        self._rung = 0
        self._bell: int | None = None
        self._listened_at = monotonic()
        self._unrung: set[int] = set()
        self._owes_all = False
        #: the last of those asked here, unless it is answered (questions.py)
        self.question: int | None = None
        self._held = 0
        #: called when another server makes jobs that wait for others
        self.on_held: Callable[[], None] = lambda: None
        #: called when a server has died or left, and we are to do what it has left undone
        self.on_gone: Callable[[], None] = lambda: None
        #: called when somebody has to see whether all is as it should be: a server died, or left in doubt, or we were held up
        self.on_lapse: Callable[[], None] = lambda: None

    async def register(self, epoch: int) -> None:
        """Announce this boot, and learn how far its journal is fed.

        Raises: StoreCorruptError: another journal has our node; nothing was changed.
        """
        before = await self._servers.find_one({"_id": self._journal_id, "node": self._node}, ["is_open", "doubts"])
        self.was_killed = before is not None and (before["is_open"] or before.get("doubts", False))
        begun = {"epoch": epoch, "is_open": True, "doubts": False, "called_off": []}
        try:
            ours: Document = await self._servers.find_one_and_update(
                {"_id": self._journal_id, "node": self._node},
                {"$set": begun, "$inc": {"beat": 1}, "$max": self._reach(0)},
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        except DuplicateKeyError:
            raise StoreCorruptError(await self._clash()) from None
        self.epoch, self._beat_at = epoch, self._monotonic()
        self.fed_seq, self.last_order = ours["fed_seq"], ours["last_order"]
        self.fed_order = self.last_order
        self._held = int(ours.get("held", 0))

    async def _clash(self) -> str:
        other = await self._servers.find_one({"node": self._node}) or {"_id": "another"}
        return f"the node {self._node} belongs to journal {other['_id']}, expected {self._journal_id}"

    def fed_to(self, fed_seq: int, last_order: int) -> None:
        """Note that the journal is fed so far; neither goes back."""
        if fed_seq and fed_seq >= self.fed_seq:  # else they were stored ahead of others that came before them
            self._decided_order = max(self._decided_order, last_order)
        self.fed_seq = max(self.fed_seq, fed_seq)
        self.fed_order = max(self.fed_order, last_order)
        self.reach(last_order)

    def reach(self, last_order: int) -> None:
        """Note that some job has this order."""
        self.last_order = max(self.last_order, last_order)

    async def beat(self) -> int:
        """Say that we live, and how far our journal is fed; return the fed_seq that is durable now.

        Raises: StoreCorruptError: another server was started with our journal.
        """
        fed_seq, now = self.fed_seq, self._monotonic()
        done = await self._servers.update_one(
            {"_id": self._journal_id, "epoch": self.epoch},
            {"$inc": {"beat": 1}, "$max": self._reach(fed_seq)},
        )
        if not done.matched_count:
            raise StoreCorruptError(f"another server was started with a copy of journal {self._journal_id}")
        self._beat_at = now
        return fed_seq

    @property
    def is_overdue(self) -> bool:
        """Tell whether our last heartbeat was so long ago that others may soon take us for dead, or do."""
        return self._monotonic() - self._beat_at > LEASE_S / 2

    def _reach(self, fed_seq: int) -> Document:
        orders = {"last_order": self.last_order, "decided_order": self._decided_order, "journal_order": self._journal_order}
        return {"fed_seq": fed_seq, **orders}

    async def leave(self, *, doubts: bool) -> None:
        """Say that this boot is over: what it has claimed may be given back at once.

        Args: doubts: of the totals, for others to see to.
        """
        over = {"$set": {"is_open": False, "doubts": doubts}}
        await self._servers.update_one({"_id": self._journal_id, "epoch": self.epoch}, over)

    async def living(self) -> set[int]:
        """Return the epochs of the boots that are alive as far as we know, ours included."""
        now = self._monotonic()
        servers = await self._servers.find().to_list(None)
        others = [one for one in servers if one["node"] != self._node]
        ours: Document = {"node": self._node}
        self.replaceable = [ours, *(made_before(one["node"], one["journal_order"]) for one in others)]
        self._sightings = {one["epoch"]: self._sighted(one["epoch"], one["beat"], now) for one in servers}
        living = {one["epoch"] for one in servers if one["epoch"] == self.epoch or self._lives(one, now)}
        self._look_after([one for one in servers if one["epoch"] not in living], living, now)
        return living

    def _sighted(self, epoch: int, beat: int, now: float) -> _Sighting:
        """Return since when this beat is seen; from now on, where nobody has looked for so long that it says nothing."""
        sighting = self._sightings.get(epoch)
        if sighting is None or sighting.beat != beat or now - sighting.last > LEASE_S / 2:
            sighting = _Sighting(beat, now)
        sighting.last = now
        return sighting

    def _lives(self, server: Document, now: float) -> bool:
        return bool(server["is_open"]) and now - self._sightings[server["epoch"]].first < LEASE_S

    def _look_after(self, over: Sequence[Document], living: set[int], now: float) -> None:
        """Have done what servers have left undone that are not alive any more, if that is ours to do."""
        left = {one["epoch"] for one in over if not one["is_open"]}
        doubting = {one["epoch"] for one in over if not one["is_open"] and one.get("doubts", False)}
        gone = self._living - living
        self._owing = (self._owing | doubting | (gone - left)) - self._looked_after
        was_held_up = now - self._looked_at > LEASE_S / 2
        self._living, self._looked_at = set(living), now
        if gone and self.is_eldest:
            self.on_gone()
        if was_held_up or (self._owing and self.is_eldest):
            self._looked_after = (self._looked_after | self._owing) & self._sightings.keys()
            self._owing = set()
            self.on_lapse()

    async def may_be_storing(self, node: str, epoch: int, order: int) -> bool:
        """Tell whether a boot of another server lives that is not known to have stored its journal's jobs up to this order."""
        if node == self._node or epoch not in await self.living():
            return False
        found = await self._servers.find_one({"node": node, "epoch": epoch}, ["decided_order"])
        return found is not None and bool(found.get("decided_order", 0) < order)

    async def ring(self, epochs: Collection[int]) -> None:
        """Let these boots know that something they run was cancelled; those that cannot be told now are told with the next."""
        self._unrung.update(epochs)
        owes_all, self._owes_all = self._owes_all, False
        unrung, self._unrung = self._unrung, set()
        try:  # who rings meanwhile owes for itself: what is under way may have come before that which it tells of
            if owes_all:
                await self._servers.update_many({"is_open": True, "epoch": {"$ne": self.epoch}}, {"$inc": {"bell": 1}})
            if unrung:
                await self._servers.update_many({"epoch": {"$in": list(unrung)}}, {"$inc": {"bell": 1}})
        except BaseException:
            self._owes_all = self._owes_all or owes_all
            self._unrung |= unrung
            raise

    async def ring_all(self) -> None:
        """Let all boots know that types were suspended, or are not any more; as `ring`."""
        self._owes_all = True
        await self.ring(())

    async def say_held(self) -> None:
        """Let all boots know that jobs wait for others, so that they note which ones end."""
        await self._servers.update_many({"is_open": True, "epoch": {"$ne": self.epoch}}, {"$inc": {"held": 1}})

    async def has_rung(self) -> bool:
        """Tell whether somebody has rung since `heard`, or it is time to look without that; and learn what was asked."""
        await self.ring(())
        ours = await self._servers.find_one({"_id": self._journal_id}, _HEARD) or {}
        self.called_off = ours.get("called_off", [])
        self._rung = int(ours.get("bell", 0))
        if self._held != (held := int(ours.get("held", 0))):
            self._held = held
            self.on_held()
        asked = int(ours.get("asked", 0))
        self.question = asked if asked > ours.get("answered", 0) else None
        return self._rung != self._bell or self._monotonic() - self._listened_at >= LISTEN_S

    def heard(self) -> None:
        """Note that what `has_rung` told of is known here."""
        self._bell, self._listened_at = self._rung, self._monotonic()

    async def others(self, node: str | None) -> list[str]:
        """Return the journals of other boots that live, or of the one with this node."""
        living = await self.living()
        of_node = {} if node is None else {"node": node}
        found = self._servers.find({"epoch": {"$in": list(living - {self.epoch})}, **of_node}, ["_id"])
        return [str(one["_id"]) async for one in found]

    async def living_nodes(self) -> set[str]:
        """Return the nodes of the servers that live, as far as we know, ours included."""
        living = await self.living()
        return {str(one["node"]) async for one in self._servers.find({"epoch": {"$in": list(living)}}, ["node"])}

    async def answer(self, question: int) -> None:
        """See questions.py."""
        said = {"$max": {"answered": question, "last_order": self.last_order}}
        await self._servers.update_one({"_id": self._journal_id, "epoch": self.epoch}, said)

    async def call_off(self, gone: Document) -> None:
        """Let the boot that runs a deleted job know that the run is over, when no record can."""
        one = {"job": gone["_id"], "returned": gone.get("returned", 0)}
        one |= {name: gone[name] for name in ("order", "attempt", "epoch", "type", "prio")}
        pushing = {"$push": {"called_off": {"$each": [one], "$slice": -CALLED_OFF}}, "$inc": {"bell": 1}}
        await self._servers.update_one({"epoch": gone["owner"]}, pushing)

    async def forget_called_off(self, claims: Collection[Claim]) -> None:
        """Take these out of `called_off` in our document."""
        ours: Document = {"_id": self._journal_id, "epoch": self.epoch}
        gone = [{"job": one.id, "order": one.order, "attempt": one.attempt, "epoch": one.epoch} for one in claims]
        await self._servers.bulk_write([UpdateOne(ours, {"$pull": {"called_off": one}}) for one in gone], ordered=False)

    async def called_off_claims(self) -> set[Claim]:
        """Return the runs that boots which live were told of by `call_off`, some of which may go on."""
        found = self._servers.find({"epoch": {"$in": list(await self.living())}}, ["called_off"])
        told = [one async for server in found for one in server.get("called_off", [])]
        return {Claim(one["order"], one["job"], one["attempt"], one["epoch"]) for one in told}

    @property
    def is_alone(self) -> bool:
        """Tell whether no other boot was alive when we looked last."""
        return self._living <= {self.epoch}

    @property
    def is_eldest(self) -> bool:
        """Tell whether this boot is to do what one of all is enough for. There may be two for a while."""
        return min(self._living, default=self.epoch) == self.epoch

    async def replay_bounds(self, journal_order: int = 0) -> Document:
        """Return the condition for records that no journal can bring back, nor what had their ids before.

        Args: journal_order: the first order that our own journal could bring back; others learn it with the next beat.
        """
        self._journal_order = max(self._journal_order, journal_order)
        bounds: list[tuple[str, int]] = []
        async for server in self._servers.find({}, ["node", "journal_order"]):
            is_ours = server["_id"] == self._journal_id
            own = journal_order or self._journal_order
            bounds.append((server["node"], own if is_ours else server["journal_order"]))
        return {
            "$or": [made_before(node, order) for node, order in bounds],
            "$nor": [{f"past.{node}": {"$gte": order}} for node, order in bounds],
        }
