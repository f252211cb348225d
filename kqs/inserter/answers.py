"""What the jobs of an insert are answered: their ids, or what they ask for beside."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kqs.ids import Ids
from kqs.inserter.questions import Found
from kqs.options import Job, JobFields
from kqs.wire.inserted import Inserted, Refused
from kqs.wire.jobs import Given, Told
from kqs.wire.jobtext import place_of
from kqs.wire.steps import JOBS_A_STEP, Steps, finish

Answer = str | Inserted | Refused
#: told the answers to jobs, in order, or why there are none
AnswersTold = Callable[[list[Answer] | Exception], None]


def told_of(job: Job) -> Told:
    """Return what is told of a job that is answered with more than an id (`is_told`)."""
    assert isinstance(job, JobFields), "only such a job is told"
    is_refused = job.on_conflict == "refuse"
    return Told(job.id is not None, job.answer is not None, job.unique is not None, job.unique if is_refused else None)


def ids_of(own_ids: Sequence[str | None], ids: Ids, first_order: int) -> list[str]:
    """Return the ids of jobs that were numbered from `first_order` on, of which some brought their own."""
    made = ids.of
    return [made(order) if own is None else own for order, own in enumerate(own_ids, first_order)]


class Answering:
    """The answers to the jobs of an insert, until they are told. Holds no data of theirs.

    asked: which of them the store must be asked about. has_keys: one of these has a unique key.
    """

    def __init__(self, given: Given, ids: Ids, told: AnswersTold, run: Callable[[Steps[None]], None]) -> None:
        """Args: told: is told the answers. run: does all steps of telling many, now or later."""
        self._ids = ids
        self._is_array = given.is_array
        self._own_ids = [job.id for job in given.jobs]
        self._told = given.told
        self._tell = told
        self._run = run
        self.asked = [index for index, told in self._told.items() if told.is_keyed or (told.is_full and told.has_id)]
        self.has_keys = any(told.is_keyed for told in self._told.values())

    def tell(self, first_order: int, found: Found) -> None:
        """Tell the answers to all jobs, of which the first was numbered `first_order`."""
        steps = self._telling(first_order, found)
        if len(self._own_ids) > JOBS_A_STEP:
            self._run(steps)
        else:
            finish(steps)

    def _telling(self, first_order: int, found: Found) -> Steps[None]:
        answers: list[Answer] = []
        for start in range(0, len(self._own_ids), JOBS_A_STEP):
            answers += ids_of(self._own_ids[start : start + JOBS_A_STEP], self._ids, first_order + start)
            yield
        for count, (index, told) in enumerate(self._told.items(), 1):
            answers[index] = self._answer(index, told, str(answers[index]), first_order + index, found)
            if count % JOBS_A_STEP == 0:
                yield
        self._tell(answers)

    def _answer(self, index: int, told: Told, own_id: str, order: int, found: Found) -> Answer:
        """Return what a job is answered that has this id unless it was joined to another."""
        joined = found.joined.get(order)
        if joined is None:
            return Inserted(own_id, order not in found.known) if told.is_full else own_id
        if told.refused_key is None:
            return Inserted(joined, created=False) if told.is_full else joined
        where = place_of(index, is_array=self._is_array)
        message = f"{where}unique: a job of this type and key {told.refused_key!r} waits already, its id is {joined!r}"
        return Refused("duplicate", message)
