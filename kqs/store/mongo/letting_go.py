"""What becomes of held jobs, in one bulk write: they fail, are let go, or await less."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from enum import Enum

from pymongo import UpdateMany, UpdateOne

from kqs.states import Event, State, next_state
from kqs.store.mongo.client import Document
from kqs.store.mongo.documents import Place, parked_key
from kqs.store.mongo.held import OF_A_HOLD, OF_THE_WAIT

#: the condition for jobs that wait for others
IS_HELD = {"place": int(Place.LATER), "awaits": {"$gt": ""}}


class Now(Enum):
    """What its update makes of a held job."""

    HELD = "it awaits those in `new` of its document"
    FAILED = "it has waited in vain"
    FREE = "it is let go, and ready"
    LATER = "it is let go, and not due yet"
    PARKED = "it is let go, and in line for its resource"


class Writes:
    """The updates of held jobs, those that are alike as one. What becomes of each, a `Now`, stands in its document then."""

    def __init__(self, mark: int) -> None:
        self._mark = mark
        self._alike: defaultdict[str, list[Document]] = defaultdict(list)
        self._changes: dict[str, Document] = {}
        self._alone: list[UpdateOne] = []
        #: the documents, by id
        self.planned: dict[str, Document] = {}

    def all(self) -> list[UpdateOne | UpdateMany]:
        """Return them."""
        return [*self._alone, *(self._together(name) for name in self._alike)]

    def _together(self, name: str) -> UpdateMany:
        """Return one update of jobs that end so, or go. It is right whatever others have done to what they await."""
        documents = self._alike[name]
        these = {field: {"$in": [one[field] for one in documents]} for field in ("_id", "order")}
        return UpdateMany({**these, **IS_HELD}, self._changes[name])

    def _add(self, one: Document, now: Now, fields: Document, unset: Iterable[str]) -> None:
        one["now"] = now
        self.planned[one["_id"]] = one
        if "asks" in one and "after" in one:
            fields["after"] = one["after"]
        change = {"$set": {**fields, "mark": self._mark}, "$unset": dict.fromkeys(unset, "")}
        name = repr(change)
        self._changes[name] = change
        self._alike[name].append(one)

    def fail(self, one: Document, why: str, now: float, keep_s: float | None) -> None:
        """Have it fail."""
        fields: Document = {"place": int(Place.ENDED), "error": why, "ended_at": now}
        fields["state"] = int(next_state(State(one["state"]), Event.EXPIRE))
        if keep_s is not None:
            fields["drop_at"] = now + keep_s
        # without an epoch, no report can take this end for its own
        self._add(one, Now.FAILED, fields, (*OF_THE_WAIT, "epoch", "parked", "called", "pair", "pends"))

    def let_go(self, one: Document, now: float) -> None:
        """Have it wait for nothing but its resource, or until it is due."""
        if one.get("let_due", 0.0) > now:
            due = {"wake_at": one["let_due"], "due_at": one["let_due"]}
            self._add(one, Now.LATER, due, OF_A_HOLD)
        elif one.get("resource") is not None:
            self._add(one, Now.PARKED, {"parked": parked_key(one["resource"], one["prio"], one["order"])}, OF_A_HOLD)
        else:
            self._add(one, Now.FREE, {"place": int(Place.READY)}, OF_A_HOLD)

    def hold(self, one: Document, awaits: list[str], why: str | None = None) -> None:
        """Have it await these: only if it awaits what it was seen to."""
        one["now"], one["new"] = Now.HELD, awaits
        self.planned[one["_id"]] = one
        fields: Document = {"awaits": awaits, "mark": self._mark}
        if why is not None:
            fields["why"] = why
        if "asks" in one and "after" in one:
            fields["after"] = one["after"]
        self._alone.append(UpdateOne({"_id": one["_id"], "mark": one["mark"], **IS_HELD}, {"$set": fields}))
