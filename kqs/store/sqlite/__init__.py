"""The default store: one SQLite file beside the journal, one thread that commits whatever has gathered."""

from kqs.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
