"""A server and all who work for it, of which one is killed or cut off again and again under load.

`hunt_account.py` says what must be true in the end. Run as a program for longer: `python -m tests.crash.hunt ROUNDS`.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.crash.hunt_account import HuntAccount, noted
from tests.crash.hunted import HELD, TYPES, Prey
from tests.crash.torture import Sender
from tests.crash.victim import drain, play, unfinished_by_stats
from tests.support.asking import ask
from tests.support.fleet import Record
from tests.support.serving import Served

CLIENTS = 8
MOST_CALLS = 12  # of a client in a round
#: much longer than a server takes to be started again, since what is given and never arrives waits for so long
HELD_TTR_S = 8.0
PAGE = 100


class HuntSender(Sender):
    """Sends jobs for everybody."""

    def job(self, key: str) -> dict[str, object]:
        job = super().job(key) | {"type": self.rng.choice(TYPES), "ghosts": -1, "ghost_delay": 0}
        return job | ({"ttr": HELD_TTR_S} if job["type"] == HELD else {})


def hunt(folder: Path, rounds: int, seed: int, children: int = 0) -> HuntAccount:
    """Strike so often, let what is left finish, check the account and return it."""
    rng, account = random.Random(seed), HuntAccount()
    with ExitStack() as stack:
        prey = Prey(folder, account, seed, children, stack)
        for number in range(rounds):
            asyncio.run(_load_and_strike(account, prey, f"r{number}", rng))
        drain([prey.server], unfinished_by_stats)
        records = _records(prey.server)
        prey.stop()
    account.check_records(records, noted(prey.log))
    return account


async def _load_and_strike(account: HuntAccount, prey: Prey, name: str, rng: random.Random) -> None:
    is_over = asyncio.Event()
    senders = [HuntSender(account, f"{name}-{number}", rng, MOST_CALLS) for number in range(CLIENTS)]
    tasks = [asyncio.create_task(sender.run(prey.server.port, is_over)) for sender in senders]
    await asyncio.sleep(rng.uniform(0.02, 0.3))
    struck = prey.strike(rng)
    account.kills += 1
    is_over.set()
    await asyncio.gather(*tasks)
    prey.revive(struck)


def _records(server: Served) -> list[Record]:
    """Return all records, with all their runs; so few at a time that their answers fit into what a connection buffers."""
    records: list[Record] = []
    after: dict[str, object] = {}
    while page := ask(server, "jobs", {"limit": PAGE} | after):
        after = {"after": page[-1]["id"]}
        answers = server.ask(*(json.dumps({"n": "job", "m": job["id"]}) for job in page))
        records += [json.loads(answer)["m"] for answer in answers]
    return records


def _tell(folder: Path, rounds: int, seed: int) -> str:
    account = hunt(folder, rounds, seed, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    return (
        f"{account.kills} deaths, {len(account.acknowledged)} jobs acknowledged, "
        f"{len(account.told)} reports over the wire, none lost, none ended twice, no run without account"
    )


if __name__ == "__main__":
    play(_tell)
