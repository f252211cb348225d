"""Whether a worker or a producer keeps the rules: a script that plays the server, drives it, and scores what it does.

A rule is a scenario of `worker` or `producer`: it gives the program jobs or answers, and raises what was broken. Below them
stand what the program has asked and been given (`desk`), what its lines mean (`speech`), and the socket and the process
(`stage`). What the program must do with which job says docs/write-a-client.md.
"""

from kqs.conformance.producer import CLIENT_RULES, client_report
from kqs.conformance.score import Line, Report, Rule
from kqs.conformance.trial import Tried
from kqs.conformance.worker import WORKER_RULES, worker_report

__all__ = ["CLIENT_RULES", "WORKER_RULES", "Line", "Report", "Rule", "Tried", "client_report", "worker_report"]
