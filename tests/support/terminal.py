"""A command of kqs that is run on a terminal of 80 columns and 24 lines."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable

from tests.support.serving import SERVE_ENVIRON


class OnTerminal:
    """A command whose input and output are a terminal. shown: what it has written there, as far as that was read."""

    def __init__(self, server: str, *arguments: str, kind: str = "xterm") -> None:
        """Args: server: its address. kind: of terminal; "dumb": nothing is drawn."""
        self._here, there = pty.openpty()
        environ = SERVE_ENVIRON | {"KQS_SERVER": server, "COLUMNS": "80", "LINES": "24", "TERM": kind}
        command = (sys.executable, "-m", "kqs", *arguments)
        self.process = subprocess.Popen(command, env=environ, stdin=there, stdout=there, stderr=there)
        os.close(there)
        self.shown = b""

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self._here, text.encode())

    def read_until(self, is_enough: Callable[[bytes], bool]) -> None:
        """Read on until what was shown so far is enough."""
        while not is_enough(self.shown):
            self.shown += os.read(self._here, 65536)

    def read_to_the_end(self) -> int:
        """Read all that it shows until it ends; return its exit code."""
        try:
            while part := os.read(self._here, 65536):
                self.shown += part
        except OSError:  # so ends a terminal whose last user is gone
            pass
        finally:
            os.close(self._here)
        return self.process.wait(30)
