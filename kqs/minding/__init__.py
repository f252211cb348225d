"""What runs in the helper processes that stand between a server and its commands. It needs nothing but the standard library.

    server ── asks for a minder ──▶ keeper ── forks ──▶ minder ── forks, watches ──▶ command ──▶ whatever that starts
       └──────────── an order and its report, one at a time ───────┘

A minder ends its command, and all that has come of it, when the server says so or is gone. The keeper is small, so that a fork
of it is cheap; it ends what a minder that was killed has left.
"""
