"""Which types have subscribers: a small table that nothing else in the store looks at."""

from __future__ import annotations

from kqs.store.sqlite.session import Session

_PUT = "insert into subscriptions (type, subscriber) values (?, ?) on conflict do nothing"
_DELETE = "delete from subscriptions where type = ? and subscriber = ?"
_ALL = "select type, subscriber from subscriptions order by type, subscriber"


def subscribe(session: Session, type_: str, subscriber: str) -> bool:
    """See Store.subscribe."""
    session.pay()
    return session.db.execute(_PUT, (type_, subscriber)).rowcount == 1


def unsubscribe(session: Session, type_: str, subscriber: str) -> bool:
    """See Store.unsubscribe."""
    session.pay()
    return session.db.execute(_DELETE, (type_, subscriber)).rowcount == 1


def subscriptions(session: Session) -> dict[str, list[str]]:
    """See Store.subscriptions."""
    found: dict[str, list[str]] = {}
    for type_, subscriber in session.db.execute(_ALL).fetchall():
        found.setdefault(type_, []).append(subscriber)
    return found
