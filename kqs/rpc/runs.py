"""The calls by which remote workers say how their runs are, and end them: one run, or a list of them.

What is reported is answered when it is durable. What a member says of a run that is not open here is asked of the store, apart
from the others. Source: docs/protocol.md, "The worker's calls".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import msgspec
from msgspec import UNSET, Raw

from kqs.errors import CallError
from kqs.job import Returned
from kqs.outcome import Outcome
from kqs.remote import OpenRun
from kqs.remote.tokens import Named
from kqs.rpc.peer import Peer, translate
from kqs.rpc.reports import (
    FINISHES,
    RELEASES,
    TOUCHES,
    Finish,
    Reader,
    Release,
    T,
    Touch,
    end_of,
    outcome_of,
    progress_in,
)
from kqs.wire.call import NULL, Call, detached
from kqs.wire.steps import Steps
from kqs.wire.strict import shown

_MEMBERS_A_STEP = 100
_ANSWER_BYTES = 80  # of one report that is refused
_NOTHING = Raw(b"[]")
_TRUE = Raw(b"true")

_encode = msgspec.json.Encoder().encode


class _Answers:
    """Gathers what is answered to the members of one call, which is answered when all are there."""

    def __init__(self, peer: Peer, call: Call, count: int, *, is_list: bool) -> None:
        self._peer = peer
        self._call = call
        self._answers: list[Raw] = [NULL] * count
        self._missing = count
        self._is_list = is_list
        self._refusal: tuple[str, str] | None = None  # no error, whose frames would hold the call in a circle

    def told(self, index: int, answer: Raw) -> None:
        """Take one answer."""
        self._answers[index] = answer
        self._missing -= 1
        if not self._missing:
            self._finish()

    def refused(self, index: int, error: CallError) -> None:
        """Take the refusal of one."""
        self._refusal = code, message = error.call_code, str(error)
        self.told(index, Raw(_encode({"code": code, "message": message})))

    def _finish(self) -> None:
        if self._refusal is not None and not self._is_list:
            self._peer.refuse(self._call, *self._refusal)
        else:
            self._peer.answer(self._call, _encode(self._answers) if self._is_list else self._answers[0])
        self._peer.settle()


def touching(peer: Peer, call: Call) -> Steps[None]:
    """Give runs another ttr, and keep how far they are."""
    unknown: list[_Unknown] = []

    def touch(answers: _Answers, index: int, one: Touch) -> None:
        if (run := peer.context.desk.watched(one.run)) is not None:
            _touch(peer, answers, index, run, one)
        else:
            unknown.append(_Unknown(answers, index, _named(peer, one.run), one))

    yield from _each(peer, call, TOUCHES, touch)
    _ask_later(peer, unknown)


def _touch(peer: Peer, answers: _Answers, index: int, run: OpenRun, one: Touch) -> None:
    """Raises: CallError: nothing is done."""
    desk = peer.context.desk

    def saved(ok: bool) -> None:
        if ok:
            answers.told(index, _left(run, desk.left_s(run)))
        else:
            answers.refused(index, _stale())

    if one.progress is UNSET:
        answers.told(index, _left(run, desk.touch(run)))
    elif desk.has_much_to_save:
        raise CallError("progress: the store is far behind with that of others, try again later", "busy")
    else:
        desk.save(run, progress_in(one), saved)


def _left(run: OpenRun, left_s: float) -> Raw:
    return Raw(_encode({"left": round(max(0.0, left_s), 3), "cancel": run.is_cancelled}))


def releasing(peer: Peer, call: Call) -> Steps[None]:
    """Take runs back that their worker does not want."""
    unknown: list[_Unknown] = []

    def release(answers: _Answers, index: int, one: Release) -> None:
        if (run := peer.context.desk.run(one.run)) is not None:
            peer.context.desk.release(run, end_of(one), partial(_told, answers, index))
        else:
            unknown.append(_Unknown(answers, index, _unwatched(peer, one.run), end_of(one)))

    yield from _each(peer, call, RELEASES, release)
    _ask_later(peer, unknown)


def finishing(peer: Peer, call: Call) -> Steps[None]:
    """Take the reports of runs."""
    unknown: list[_Unknown] = []

    def finish(answers: _Answers, index: int, one: Finish) -> None:
        desk = peer.context.desk
        if (run := desk.run(one.run)) is not None:
            if one.result != NULL and not desk.may_report(run):
                raise CallError("too many results wait for the store, report this one again later", "busy")
            desk.report(run, outcome_of(one), partial(_told, answers, index))
        else:
            unknown.append(_Unknown(answers, index, _unwatched(peer, one.run), outcome_of(one)))

    yield from _each(peer, call, FINISHES, finish)
    _ask_later(peer, unknown)


class _Unknown(NamedTuple):
    """What is said of a run that is not open here: the report that has ended it, repeated, or the run is another server's.

    said: None: it never began.
    """

    answers: _Answers
    place: int
    named: Named
    said: Outcome | Returned | Touch | None


def _ask_later(peer: Peer, unknown: list[_Unknown]) -> None:
    if unknown:
        peer.begin_task()
        peer.context.spawn(_ask_again(peer, unknown), "call of another's runs")


async def _ask_again(peer: Peer, unknown: list[_Unknown]) -> None:
    """Answer reports by what is stored: one after the other, so that long lists of them take no memory and no store's time."""
    for one in unknown:
        if peer.is_gone:
            break
        try:
            async with peer.reads:
                await _ask_of(peer, one)
        except Exception as error:
            code, message = translate(error)
            one.answers.refused(one.place, CallError(message, code))
    peer.end_task(_ANSWER_BYTES * len(unknown))


async def _ask_of(peer: Peer, one: _Unknown) -> None:
    """Answer one. Raises: CallError: it is refused; StoreUnavailableError."""
    if isinstance(one.said, Touch):
        if (run := await peer.context.desk.take(one.named)) is None:
            raise _stale()
        _touch(peer, one.answers, one.place, run, one.said)
    elif await peer.context.backend.report_unwatched(one.named, one.said):
        one.answers.told(one.place, _TRUE)
    else:
        raise _stale()


def _told(answers: _Answers, index: int, ok: bool) -> None:
    if ok:
        answers.told(index, _TRUE)
    else:
        answers.refused(index, _stale())


def _no_token(text: str) -> CallError:
    return CallError(f"run: expected the token of a run, got {shown(_encode(text))}")


def _stale() -> CallError:
    return CallError("the run is over: it was lost, or reported already", "stale")


def _named(peer: Peer, token: str) -> Named:
    """Return what a token names. Raises: CallError: it is none, or that cannot be told yet."""
    if not peer.context.desk.is_started:
        raise CallError("the store is not there yet, so nothing is known of runs; say it again later", "busy")
    if (named := peer.context.desk.named(token)) is None:
        raise _no_token(token)
    return named


def _unwatched(peer: Peer, token: str) -> Named:
    """As `_named`, of a run whose end is told. Raises: CallError: also where it was lost here just now."""
    named = _named(peer, token)
    if peer.context.desk.left(named):
        raise _stale()
    return named


def _each(peer: Peer, call: Call, reader: Reader[T], take: Callable[[_Answers, int, T], None]) -> Steps[None]:
    """Have each member of a call taken, in steps."""
    try:
        members = yield from reader.members(call)
    except Exception as error:
        peer.refuse(call, *translate(error))
        return
    if not members.texts:
        peer.answer(call, _NOTHING)
        return
    peer.defer()
    answers = _Answers(peer, detached(call), len(members.texts), is_list=members.is_list)
    try:
        for index, text in enumerate(members.texts):
            one = yield from reader.reading(text)
            if isinstance(one, CallError):
                answers.refused(index, one)
            else:
                _take(answers, index, one, take)
            if index % _MEMBERS_A_STEP == _MEMBERS_A_STEP - 1:
                yield
    except GeneratorExit:  # it was turned away in the midst, and is never answered
        peer.settle()
        raise


def _take(answers: _Answers, index: int, one: T, take: Callable[[_Answers, int, T], None]) -> None:
    try:
        take(answers, index, one)
    except CallError as error:
        answers.refused(index, error)
