"""A producer for `kqs conformance client`, around kqs.client: python -m tests.support.client_producer HOST PORT TYPE."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid

from kqs.client import ConnectionLostError, connect
from kqs.errors import CallError

LATER = frozenset({"busy", "draining", "no_space", "journal_failed", "internal"})


async def main(host: str, port: int, type_: str) -> int:
    loop, status = asyncio.get_running_loop(), 0
    async with connect(host, port) as kqs:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            job_id, pause_s = uuid.uuid4().hex, 0.1
            while True:
                try:
                    print(await kqs.insert(type_, json.loads(line), id=job_id), flush=True)
                    break
                except CallError as error:
                    if error.call_code not in LATER:
                        print(f"refused: {error.call_code}", flush=True)
                        status = 1
                        break
                except ConnectionLostError:
                    pass
                await asyncio.sleep(pause_s)
                pause_s *= 2
    return status


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
