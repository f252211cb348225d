"""How far the journal's records have come: fed <= held <= durable, always, and none of the three ever goes back.

    0 ........ fed ........ held ........ durable
      the store |  memory    |  the disk   |
      has these | has these  | alone       |

`fed` and `held` are the seqs after the last such record. A record counts as held only once it is, and as fed only once the
store has it: whatever goes wrong in between leaves the cursor before it, so it is read from the journal again.
"""

from __future__ import annotations


class Cursor:
    """See the module docstring. Call from the loop thread.

    fed: the first seq that the store does not have. held: the first that is neither in memory nor in the store. Others read
    both, and move them by `feed` and `hold` alone.
    """

    __slots__ = ("fed", "held")

    def __init__(self, seq: int = 0) -> None:
        """Begin where the store has all records below `seq`."""
        self.fed = seq
        self.held = seq

    def hold(self, seq: int, durable_seq: int) -> None:
        """Note that every record below `seq` is held, or is nothing to feed."""
        assert self.held <= seq <= durable_seq, f"held up to {self.held}, to {seq}, durable up to {durable_seq}"
        self.held = seq

    def feed(self, seq: int) -> None:
        """Note that the store has every record below `seq`."""
        assert self.fed <= seq <= self.held, f"fed up to {self.fed}, to {seq}, held up to {self.held}"
        self.fed = seq
