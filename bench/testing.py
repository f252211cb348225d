"""How long a thousand tests take that each have a queue of their own: python -m bench.testing [COUNT]."""

from __future__ import annotations

import asyncio
import sys
import time

import kqs.testing

COUNT = 1000


async def _test() -> None:
    async with kqs.testing.open() as queue:

        async def send(data: int) -> int:
            return data

        queue.add_handler("mail", send)
        await queue.add_job("mail", 1)
        assert await queue.run_until_idle() == 1
        await queue.assert_inserted("mail", 1)


async def _all(count: int) -> float:
    await _test()  # what is imported and made but once
    began = time.perf_counter()
    for _ in range(count):
        await _test()
    return time.perf_counter() - began


def main() -> None:
    """Measure and print it."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    took_s = asyncio.run(_all(count))
    print(f"{count} tests: {took_s:.2f} s, {took_s / count * 1e3:.1f} ms each")


if __name__ == "__main__":
    main()
