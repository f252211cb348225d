"""What a command is: declared once, for the server, which is told it by its configuration, and the minder, which starts it."""

from __future__ import annotations

from typing import NamedTuple

from kqs.minding.limits import Limits


class Command(NamedTuple):
    """A program that runs jobs: what it is called with, in which folder, and what it may take.

    argv: its first is a path or, without a slash, a name that is looked for in PATH.
    """

    argv: list[str]
    folder: str
    output_bytes: int = 2**20
    limits: Limits = Limits()
