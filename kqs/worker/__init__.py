"""Lanes that run jobs, of the queue or of a connection to one."""

from kqs.worker.worker import Worker

__all__ = ["Worker"]
