"""Types whose jobs wait: a small table that nothing else in the store looks at."""

from __future__ import annotations

from kqs.store.sqlite.session import Session

_PUT = "insert into suspended (type, since) values (?, ?) on conflict do nothing"
_DELETE = "delete from suspended where type = ?"
_ALL = "select type, since from suspended"


def suspend(session: Session, type_: str, at: float) -> bool:
    """See Store.suspend."""
    session.pay()
    return session.db.execute(_PUT, (type_, at)).rowcount == 1


def resume(session: Session, type_: str) -> bool:
    """See Store.resume."""
    session.pay()
    return session.db.execute(_DELETE, (type_,)).rowcount == 1


def suspended(session: Session) -> dict[str, float]:
    """See Store.suspended."""
    return {str(type_): float(since) for type_, since in session.db.execute(_ALL).fetchall()}
