"""From the journal into the queue."""

from kqs.feeder.feeder import Feeder

__all__ = ["Feeder"]
