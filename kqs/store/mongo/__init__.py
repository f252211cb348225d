"""The store for more than one machine: MongoDB, or any server of its protocol, shared by many servers."""

from kqs.store.mongo.store import MongoStore

__all__ = ["MongoStore"]
