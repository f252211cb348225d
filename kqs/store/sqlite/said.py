"""What owners have said of types: a small table that nothing else in the store looks at."""

from __future__ import annotations

from kqs.store.sayings import Topic
from kqs.store.sqlite.session import Session

_PUT = "insert into said (topic, type, text) values (?, ?, ?) on conflict do update set text = excluded.text"
_DELETE = "delete from said where topic = ? and type = ?"
_ONE = "select 1 from said where topic = ? and type = ?"
_ALL = "select type, text from said where topic = ?"


def say(session: Session, topic: Topic, type_: str, text: bytes | None) -> bool:
    """See Store.say."""
    session.pay()
    was_said = session.db.execute(_ONE, (topic, type_)).fetchone() is not None
    if text is None:
        session.db.execute(_DELETE, (topic, type_))
    else:
        session.db.execute(_PUT, (topic, type_, text))
    return was_said


def said(session: Session, topic: Topic) -> dict[str, bytes]:
    """See Store.said."""
    return {str(type_): bytes(text) for type_, text in session.db.execute(_ALL, (topic,)).fetchall()}
