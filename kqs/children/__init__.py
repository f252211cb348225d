"""Child processes that run the server's jobs: each is a worker away from its server, on a socket that nobody else can reach.

    server ── a socket and a pipe ──▶ child: kqs.outpost, with lanes, threads and commands of its own
       └─── keeper ── minder ── forks, watches ───┘

How they are started, and killed with whatever kills the server, is the business of the helper processes (kqs.minding).
"""

from kqs.children.children import Children

__all__ = ["Children"]
