from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.memory import MIB

LONG_PIECES = """
from kqs.process.memory import map_long_pieces
map_long_pieces()
length = 1 << 20
"""
SHORT_PIECES = """
length = 100_000
"""
#: pieces between others that stay, after one so long that glibc's own threshold has grown
HOLES = """
import asyncio, os
from kqs.process import memory
from tests.support.memory import resident_bytes

longest = b"y" * (30 << 20)
del longest
async def main():
    memory.LOOK_S = 0
    giving = asyncio.create_task(memory.give_back_holes()) if {gives} else None
    await asyncio.sleep(0)
    pieces, stay = [], []
    for _ in range((100 << 20) // length):
        pieces.append(b"y" * length)
        stay.append(b"x" * 5000)
    full = resident_bytes(os.getpid())
    pieces.clear()
    for _ in range(10):
        await asyncio.sleep(0)
    print(full - resident_bytes(os.getpid()))
asyncio.run(main())
"""


@pytest.mark.parametrize(("pieces", "gives"), [(LONG_PIECES, False), (SHORT_PIECES, True)], ids=["long", "short"])
def test_what_was_freed_between_what_stays_goes_back_to_the_system(pieces: str, gives: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", pieces + HOLES.format(gives=gives)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) >= 90 * MIB


def test_the_collector_does_not_look_at_every_few_jobs() -> None:
    program = """
import gc
from kqs.process.memory import CONTAINERS, collect_seldom
collect_seldom()
looks = []
gc.callbacks.append(lambda phase, info: looks.append(phase))
kept = [[] for _ in range(CONTAINERS // 2)]
few = len(looks)
kept += [[] for _ in range(CONTAINERS)]
print(few, len(looks) > few)
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "0 True\n"
