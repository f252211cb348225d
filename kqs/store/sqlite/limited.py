"""What owners have said of the limits of types: a small table that nothing else in the store looks at."""

from __future__ import annotations

from kqs.store.sqlite.session import Session

_PUT = "insert into limits (type, said) values (?, ?) on conflict do update set said = excluded.said"
_DELETE = "delete from limits where type = ?"
_ONE = "select 1 from limits where type = ?"
_ALL = "select type, said from limits"


def limit(session: Session, type_: str, said: bytes | None) -> bool:
    """See Store.limit."""
    session.pay()
    was_said = session.db.execute(_ONE, (type_,)).fetchone() is not None
    if said is None:
        session.db.execute(_DELETE, (type_,))
    else:
        session.db.execute(_PUT, (type_, said))
    return was_said


def limits(session: Session) -> dict[str, bytes]:
    """See Store.limits."""
    return {str(type_): bytes(said) for type_, said in session.db.execute(_ALL).fetchall()}
