"""How fast the feeder goes: how long jobs gather in the journal before the next batch, and how many it has. Pure.

The journal is the buffer, and a commit of the store takes its time from the inserts, so few and large ones are best. But what
waits in the journal cannot overtake what waits in the store, and a restart must read it again. Four rules weigh that up. They
speak of how long the oldest job has waited, which says the same of ten inserts a second and of 100,000.

1. Jobs gather for `GATHER_S`. When one has waited so long, batch follows batch: as long as the store is faster than the
   inserts, no job waits much longer. Measured, 60 k inserts/s that nobody takes: 3 to 18 k wait. (A rest after each batch that
   follows from how long that one took lets a bounded batch fall behind: 31 k/s were fed.)
2. In a flood, feeding slows down the inserts: while a batch is fed they come less than `SLOWED` times as fast as while the
   feeder rests. So do those of clients that wait for their answers. A flood has precedence: the feeder takes about a quarter of
   the time, until jobs have waited `FLOOD_S`, and all of it from then on, so that no flood fills the disk.
   Measured, 8 x 125 inserts in flight: 140 k/s come in a rest and 75 k/s during a batch. Without any rest it is the latter.
3. Lanes with room get their jobs at once. As long as all that waits is alike, in memory or on disk, they are claimed in the
   journal, and what waits for lanes is not fed, if those will have taken it within `HOLD_S`: it is stored once, as ended, at a
   half of the cost. So does what waits for a slot of its type, or behind others in the broker, while lanes ask. What would
   wait, or has waited, for longer is stored, where other servers, and whoever lists jobs, can see it.
4. But not if more pours in than the lanes get through, when a job has waited for `PASSED_BY_S`: the next one may have a right
   to overtake all of them, and the store is where it can. Measured, 40 k/s for 6 s and lanes that do 12 k/s: an urgent job
   then begins after 1.3 s, and after 6.7 s without this rule.
"""

from __future__ import annotations

from typing import NamedTuple

#: jobs in a batch; preparing so many takes the loop 10 ms, and twice as many would make a commit only a little cheaper
BATCH_JOBS = 4000
#: jobs: below it a commit costs more than its rows, even if a lane is waiting
LEAST_JOBS = 64
#: s; see rule 1. With 0.01 serial inserts would be two thirds as fast: a commit of the store comes between them
GATHER_S = 0.1
#: s; see rule 3. Ends gather for so long, and then go right behind the next run that begins, when an insert is least likely to
#: come: a flush that meets the store's takes twice as long. Serial inserts that run at once are as fast with twice as much
ENDS_S = 0.05
#: s; they do not wait longer for a run
ENDS_MOST_S = 0.07
#: s; see rule 2. A restart reads and stores what came in so long a time in about as long
FLOOD_S = 10.0
#: rests of a flood, in batches of average length, and their most in s: after a batch that the store refused for a while
FLOOD_REST_BATCHES = 3.0
MOST_REST_S = 0.25
#: see rule 2: the open load of rule 1 is measured as 0.9 to 1.1, the closed one as 0.5 to 0.6
SLOWED = 0.8
#: inserts that come less than this share as fast as they are fed are none that could be slowed down
FLOOD_SHARE = 0.1
#: how much less a batch counts for the speeds with each later one: a commit that the disk held up is no flood
MEMORY = 0.75
#: s; see rule 4. 100,000 no-op jobs at once, of which the last waits 0.6 s, still go straight to their lanes
PASSED_BY_S = 0.75
#: s; see rule 3. 100,000 no-op jobs at once take about as long
HOLD_S = 2.0


class Speeds(NamedTuple):
    """How fast jobs came and were fed of late: sums over batches, of which each counts less with every later one.

    came_resting, resting_s: how many jobs came in how long a time of rest. came_feeding, feeding_s: likewise while `fed_jobs`
    were fed.
    """

    came_resting: float = 0.0
    resting_s: float = 0.0
    came_feeding: float = 0.0
    feeding_s: float = 0.0
    fed_jobs: float = 0.0

    def after_rest(self, came_jobs: int, rest_s: float) -> Speeds:
        """Return the speeds after a rest."""
        came, seconds = MEMORY * self.came_resting + came_jobs, MEMORY * self.resting_s + rest_s
        return self._replace(came_resting=came, resting_s=seconds)

    def after_batch(self, came_jobs: int, batch_s: float, fed_jobs: int) -> Speeds:
        """Return the speeds after a batch."""
        came, seconds = MEMORY * self.came_feeding + came_jobs, MEMORY * self.feeding_s + batch_s
        return self._replace(came_feeding=came, feeding_s=seconds, fed_jobs=MEMORY * self.fed_jobs + fed_jobs)

    @property
    def is_flood(self) -> bool:
        """Tell whether feeding slows down the inserts."""
        is_fast = self.came_feeding >= FLOOD_SHARE * self.fed_jobs
        return is_fast and self.came_feeding * self.resting_s < SLOWED * self.came_resting * self.feeding_s

    @property
    def batch_s(self) -> float:
        """Return how long a full batch takes, in s."""
        return BATCH_JOBS * self.feeding_s / self.fed_jobs if self.fed_jobs else 0.0


def rest_s(age_s: float, speeds: Speeds, *, was_full: bool) -> float:
    """Return how much longer jobs may gather that no lane waits for, in s.

    Args: age_s: how long the oldest job that is not fed has been durable. was_full: the last batch left others behind.
    """
    if was_full and age_s < FLOOD_S and speeds.is_flood:
        return min(FLOOD_REST_BATCHES * speeds.batch_s, MOST_REST_S)
    return max(0.0, GATHER_S - age_s)


def most_jobs(room: int, age_s: float, came_jobs: int, *, is_ordered: bool) -> int:
    """Return how many jobs to feed at most while lanes have `room`.

    Args: came_jobs: how many came since the last look. is_ordered: none of those that wait, as far as is known, has a right to
        overtake another.
    """
    return max(room, LEAST_JOBS) if is_ordered and not is_passed_by(age_s, came_jobs) else BATCH_JOBS


def is_passed_by(age_s: float, came_jobs: int) -> bool:
    """Tell whether a job that comes next may have to overtake what waits; see rule 4."""
    return came_jobs > 0 and age_s > PASSED_BY_S


class Drain(NamedTuple):
    """How fast lanes have taken held jobs of late: sums over claims, of which each counts less with every later one.

    known_s: how long they have, in all.
    """

    jobs: float = 0.0
    seconds: float = 0.0
    known_s: float = 0.0

    def after_claim(self, jobs: int, since_s: float) -> Drain:
        """Return the sums after lanes took `jobs`, and had room for others `since_s` ago."""
        if since_s > MOST_REST_S:  # they had none to take
            return Drain()
        return Drain(MEMORY * self.jobs + jobs, MEMORY * self.seconds + since_s, self.known_s + since_s)

    def is_soon(self, waiting_jobs: int) -> bool:
        """Tell whether lanes will have taken so many within `HOLD_S`; so it is where little is known yet.

        Of short runs more are claimed at a time as it shows how short they are: the first few claims tell nothing.
        """
        return self.known_s < GATHER_S or waiting_jobs * self.seconds <= HOLD_S * self.jobs
