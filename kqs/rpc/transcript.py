"""What one connection says and is told, in the log: `<` what came, `>` what was sent, `!` what was refused.

Old clients send credentials with their jobs, which must not stand there.
"""

from __future__ import annotations

import re

from kqs.log import get_logger

log = get_logger("kqs.rpc")

_SHOWN_BYTES = 200
_LETTER_ESCAPE = re.compile(rb"\\u00[4-7]")


class Transcript:
    """See the module docstring. Made only where every line is logged: a log call that is filtered out costs more than a job."""

    def __init__(self) -> None:
        self._may_hear_credentials = False

    def received(self, lines: bytes) -> None:
        """Log lines that came."""
        self._may_hear_credentials = self._may_hear_credentials or _may_name_credentials(lines)
        log.debug("<", lines=self._shown(lines), size=len(lines))

    def sent(self, answers: bytes) -> None:
        """Log lines that are sent."""
        log.debug(">", lines=self._shown(answers), size=len(answers))

    def refused(self, code: str, message: str) -> None:
        """Log that a call was refused."""
        log.debug("!", code=code, message=self._shown(message.encode()))

    def _shown(self, lines: bytes) -> bytes:
        """Return what of lines may stand in a log.

        Nothing where an old client's credentials may stand, nor after that: who breaks a call over several lines sends them in
        lines of their own, and what is wrong with those is answered by showing them.
        """
        if self._may_hear_credentials or _may_name_credentials(lines) or b"\\u" in lines:
            return b"(not shown, may hold credentials)"
        return lines[:_SHOWN_BYTES]


def _may_name_credentials(lines: bytes) -> bool:
    """Tell whether an old client's `auth` may stand in lines, however it is spelt."""
    return b"auth" in lines.lower() or _LETTER_ESCAPE.search(lines) is not None
