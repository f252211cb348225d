"""A queue for tests: in a folder of its own that is gone afterwards, with a clock that the test sets forward.

async with kqs.testing.open() as queue:
    queue.add_handler("mail", send)
    await queue.add_job("mail", {"to": "ada"}, delay=3600)
    assert await queue.run_until_idle() == 0
    assert await queue.advance(3600) == 1

See docs/testing.md.
"""

from kqs.testing.clock import SettableClock
from kqs.testing.queue import TestQueue, open_queue
from kqs.testing.queue import open_queue as open  # noqa: A004 - users write kqs.testing.open

__all__ = ["SettableClock", "TestQueue", "open", "open_queue"]
