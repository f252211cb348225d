"""Workers that are elsewhere: what they have asked for, what they run, and what they say of it. Knows no wire."""

from kqs.remote.desk import Desk
from kqs.remote.party import Order, Party
from kqs.remote.runs import OpenRun

__all__ = ["Desk", "OpenRun", "Order", "Party"]
