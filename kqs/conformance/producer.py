"""The rules of a producer: a program that inserts jobs. What it reads and prints says docs/write-a-client.md."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import msgspec

from kqs.conformance import speech
from kqs.conformance.desk import same
from kqs.conformance.score import Line, NotTried, Report, Rule
from kqs.conformance.stage import Happening, Heard, Lost, Peer, Printed, Stage
from kqs.conformance.trial import AWAY_S, DATA, Rules, Trial
from kqs.errors import ERROR_CODES, CallError
from kqs.options import Job, JobFields
from kqs.wire.call import BadLine, Call
from kqs.wire.jobs import decode_jobs

TYPE = "echo"
#: how often a producer may try while the server is away: it waits longer each time
MOST_TRIES = 12
#: how long several inserts are waited for before a producer is believed to send one at a time, in s
QUIET_S = 0.5
_ANOTHER = "its data had changed"

_RULES = Rules()


class Insert:
    """One insert that came, and was not answered yet."""

    def __init__(self, peer: Peer, call: Call, job: Job) -> None:
        self.peer = peer
        self.call = call
        self.job = job

    def answer(self) -> bytes:
        """Return the line that says it is kept."""
        return speech.answer(self.call, self.job.id)

    def refusal(self, code: str) -> bytes:
        """Return the line that refuses it."""
        return speech.refusal(self.call, code, ERROR_CODES[code])


class ProducerTrial(Trial):
    """A producer under test: each rule writes lines to its input, and answers what comes of them."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.inserts: list[Insert] = []
        self.printed: list[str] = []
        self.faults: list[str] = []

    def forget(self) -> None:
        """See Trial."""
        self.inserts.clear()
        self.printed.clear()
        self.faults.clear()

    def hear(self, what: Happening) -> None:
        """Keep inserts and what is printed; refuse the rest."""
        if isinstance(what, Printed):
            self.printed.append(what.line.strip())
        elif isinstance(what, Lost):
            self.inserts = [insert for insert in self.inserts if insert.peer is not what.peer]
        elif isinstance(what, Heard):
            try:
                self._take(what.peer, what.call)
            except CallError as error:
                self.faults.append(f"{error.call_code}: {error}")
                what.peer.send(speech.refusal(what.call, error.call_code, str(error)))

    def _take(self, peer: Peer, call: Call | BadLine) -> None:
        if isinstance(call, BadLine):
            raise CallError(call.message, call.code)
        if call.name == "ping":
            peer.send(speech.answer(call, "pong"))
            return
        if call.name != "insert":
            raise CallError(f'no call of this server is named "{call.name}"', "unknown_call")
        jobs = decode_jobs(call.arg)
        if call.notification or bytes(call.arg).startswith(b"[") or len(jobs) != 1:
            raise CallError("one job an insert is what is tried here")
        self.inserts.append(Insert(peer, call, jobs[0]))

    def check(self) -> None:
        """See Trial."""
        self.expect(not self.faults, "calls that the server takes", self._faults)

    @property
    def _faults(self) -> str:
        return f"a call was refused, {self.faults[-1]}" if self.faults else ""

    async def prepare(self) -> None:
        """Start it anew, so that each rule begins with an input that is empty."""
        if not self.stage.is_running:
            await self.stage.kill()
            self.forget()
            await self.stage.start()

    def write(self, *values: object) -> None:
        """Give it lines of input."""
        self.inserts.clear()
        self.printed.clear()
        self.stage.write("".join(msgspec.json.encode(value).decode() + "\n" for value in values))

    async def insert(self, what: str = "an insert") -> Insert:
        """Return the next insert that comes; Broken: none does."""
        await self.until(lambda: bool(self.inserts))
        self.expect(bool(self.inserts), what, self._faults)
        return self.inserts.pop(0)

    async def says(self, line: str) -> None:
        """Broken: it does not print this."""
        await self.until(lambda: bool(self.printed))
        self.expect(self.printed == [line], f"the line {line!r} on its output", f"got {self.printed}" if self.printed else "")

    async def kept(self, insert: Insert) -> None:
        """Answer an insert; see that its id is printed, and that it does not come again."""
        insert.peer.send(insert.answer())
        await self.says(str(insert.job.id))
        self.expect(not self.inserts, "an answered insert not to be repeated", "it came again")

    async def again(self, first: Insert, why: str) -> Insert:
        """Return the repetition of an insert; Broken: it is another job, or none comes."""
        second = await self.insert(f"the insert again after {why}")
        self.expect(
            second.job.id == first.job.id, f"the insert again under the id {first.job.id}", f"got the id {second.job.id}"
        )
        self.expect(bytes(second.job.data) == bytes(first.job.data), "the same job again", _ANOTHER)
        return second

    # the rules

    @_RULES.add("inserts", "inserts a line of its input, and prints the id when that is answered")
    async def _inserts_rule(self) -> None:
        self.write(DATA)
        insert = await self.insert()
        job = insert.job
        self.expect(job.type == TYPE, f'the type "{TYPE}"', f'got "{job.type}"')
        self.expect(same(DATA, job.data), "the line as data", f"got {bytes(job.data).decode(errors='replace'):.200}")
        self.expect(not self.printed, "nothing printed before the answer", f"got {self.printed}")
        await self.kept(insert)

    @_RULES.add("ids", "gives each job an id of its own, also when it is started anew")
    async def _ids_rule(self) -> None:
        ids = []
        for _ in range(3):
            self.write(1)
            insert = await self.insert()
            self.expect(insert.job.id is not None, "an id of the program's own", "the job had none")
            ids.append(insert.job.id)
            await self.kept(insert)
        self.expect(len(set(ids)) == len(ids), "an id of its own for each job", f"got {ids}")
        self.check()
        await self.stage.kill()
        self.forget()
        await self.stage.start()
        self.write("another")
        insert = await self.insert()
        self.expect(
            insert.job.id not in ids, "no id that another job had when the program was started before", f"got {insert.job.id}"
        )
        await self.kept(insert)

    @_RULES.add("pieces", "reads a line that comes in pieces")
    async def _pieces_rule(self) -> None:
        self.write(1)
        insert = await self.insert()
        await insert.peer.send_in_pieces(insert.answer())
        await self.says(str(insert.job.id))

    @_RULES.add("many", "reads many lines that come in one piece, in any order")
    async def _many_rule(self) -> None:
        self.write(1, 2, 3)
        if not await self.until(lambda: len(self.inserts) == 3, QUIET_S):
            await self._all_printed(await self._one_by_one(3))
            raise NotTried("it has one call at a time, and so gets one answer at a time")
        ids = [str(insert.job.id) for insert in self.inserts]
        # answers may come in any order
        self.inserts[0].peer.send(b"".join([insert.answer() for insert in reversed(self.inserts)]))
        await self._all_printed(ids)

    async def _one_by_one(self, count: int) -> list[str]:
        ids = []
        for _ in range(count):
            insert = await self.insert()
            insert.peer.send(insert.answer())
            ids.append(str(insert.job.id))
        return ids

    async def _all_printed(self, ids: list[str]) -> None:
        await self.until(lambda: len(self.printed) == len(ids))
        self.expect(sorted(self.printed) == sorted(ids), f"the lines {ids} on its output", f"got {self.printed}")
        self.inserts.clear()

    @_RULES.add("unknown", "ignores fields of an answer that it does not know")
    async def _unknown_rule(self) -> None:
        self.write(1)
        insert = await self.insert()
        insert.peer.send(insert.answer().replace(b"{", b'{"later":{"a":[1]},', 1))
        await self.says(str(insert.job.id))

    @_RULES.add("waits", "takes an intermediate answer to mean that the job is kept, and what follows it for none")
    async def _waits_rule(self) -> None:
        self.write(1)
        insert = await self.insert()
        if isinstance(insert.job, JobFields) and insert.job.wait == 0:
            await self.kept(insert)
            raise NotTried('it inserts with "wait":0')
        insert.peer.send(speech.event(insert.call, insert.job.id))
        await self.watch(QUIET_S)
        insert.peer.send(insert.refusal("job_failed"))
        await self.says(str(insert.job.id))
        self.write(2)
        await self.kept(await self.insert())

    @_RULES.add("busy", "inserts again after busy, under the same id, waiting longer each time")
    async def _busy_rule(self) -> None:
        self.write(1)
        first = insert = await self.insert()
        tries, until = 1, time.monotonic() + AWAY_S
        while time.monotonic() < until:
            insert.peer.send(insert.refusal("busy"))
            insert = await self.again(first, "busy")
            tries += 1
        self.expect(tries <= MOST_TRIES, f"a longer wait after each refusal, so up to {MOST_TRIES} tries", f"{tries} came")
        await self.kept(insert)

    @_RULES.add("later", "inserts again after draining, no_space, journal_failed and internal")
    async def _later_rule(self) -> None:
        for code in ("draining", "no_space", "journal_failed", "internal"):
            self.write(1)
            insert = await self.insert()
            insert.peer.send(insert.refusal(code))
            await self.kept(await self.again(insert, code))

    @_RULES.add("lost", "inserts again, under the same id, what a lost connection left without an answer")
    async def _lost_rule(self) -> None:
        self.write(DATA, 2, 3)
        await self.until(lambda: len(self.inserts) == 3, QUIET_S)
        unanswered = [await self.insert() for _ in range(max(1, len(self.inserts)))]
        gone = unanswered[0].peer
        gone.close()
        came: dict[str | None, Insert] = {}
        while len(self.printed) < 3:
            insert = await self.insert("each insert again that a lost connection left without an answer")
            if insert.peer is not gone:  # else it was on its way
                came[insert.job.id] = insert
                insert.peer.send(insert.answer())
            await self.until(lambda: bool(self.inserts) or len(self.printed) == 3)
        for first in unanswered:
            second = came.get(first.job.id)
            self.expect(second is not None, f"the insert again under the id {first.job.id}", f"got {', '.join(map(str, came))}")
            self.expect(second is None or bytes(second.job.data) == bytes(first.job.data), "the same job again", _ANOTHER)
        await self._all_printed([str(job_id) for job_id in came])

    @_RULES.add("half-line", "takes a line that a lost connection cut short for none")
    async def _half_line_rule(self) -> None:
        self.write(1)
        insert = await self.insert()
        # all but the newline: it parses, and is no line
        insert.peer.send(insert.answer()[:-1])
        insert.peer.close()
        await self.kept(await self.again(insert, "half an answer"))

    @_RULES.add("back-off", "connects again after a lost connection, waiting longer each time")
    async def _back_off_rule(self) -> None:
        self.write(1)
        insert = await self.insert()
        self.stage.shut()
        await self.watch(AWAY_S)
        knocks, self.stage.is_shut = self.stage.knocks, False
        self.expect(
            knocks <= MOST_TRIES,
            f"a longer wait before each try to connect, so up to {MOST_TRIES} in {AWAY_S:g} s",
            f"{knocks} came",
        )
        await self.kept(await self.again(insert, "the server was away"))

    @_RULES.add("ends", "ends with status 0 after the end of its input, when all is answered, and not before")
    async def _ends_rule(self) -> None:
        self.write(1)
        await self.kept(await self.insert())
        self.write(2)
        insert = await self.insert()
        self.stage.end_input()
        await self.watch(QUIET_S)
        insert.peer.close()
        await self.kept(await self.again(insert, "a lost connection after the end of the input"))
        await self.ends_with(0)

    async def ends_with(self, status: int) -> None:
        """Broken: the program does not end so after the end of its input."""
        self.stage.end_input()
        await self.until(lambda: self.stage.status is not None)
        self.expect(self.stage.status == status, f"the program to end with status {status} after the end of its input")

    @_RULES.add("too-large", "finds out which insert a too_large without an id means, and inserts the others")
    async def _too_large_rule(self) -> None:
        self.write(1, DATA, 2)
        await self.until(lambda: len(self.inserts) == 3, QUIET_S)
        tries, ids = 0, set[str]()
        while len(self.printed) < 3:
            # the longest first: if it is in flight with others, which is meant must be found out
            self.inserts.sort(key=lambda insert: len(insert.job.data), reverse=True)
            insert = await self.insert("the other inserts after one was refused as too_large without an id")
            if not same(DATA, insert.job.data):
                insert.peer.send(insert.answer())
                ids.add(str(insert.job.id))
            else:
                tries += 1
                self.expect(tries <= 2, "an insert that is too large to be given up", f"it came {tries} times")
                insert.peer.send(speech.unnamed(insert.call, "too_large", "the line is too long"))
            await self.until(lambda: bool(self.inserts) or len(self.printed) == 3)
        await self._all_printed([*ids, "refused: too_large"])

    async def _gives_up(self, insert: Insert, code: str) -> None:
        insert.peer.send(insert.refusal(code))
        await self.says(f"refused: {code}")
        self.write(2)
        following = await self.insert()
        self.expect(
            following.job.id != insert.job.id, f"a job that was refused as {code} not to be inserted again", "it came again"
        )
        await self.kept(following)

    @_RULES.add("refused", "tells of a job that is refused for good, does not insert it again, and ends with status 1")
    async def _refused_rule(self) -> None:
        for code in ("bad_job", "too_large", "bad_call", "forbidden"):
            self.write(1)
            await self._gives_up(await self.insert(), code)
        await self.ends_with(1)


CLIENT_RULES = _RULES.all


async def client_report(stage: Stage, rules: Collection[Rule], told: Callable[[Line], None]) -> Report:
    """Try a producer. told: of each rule, as it is tried."""
    return await _RULES.try_out(ProducerTrial(stage), rules, told)
