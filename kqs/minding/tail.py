"""What a command writes to stderr: its end is kept, and lines that tell its progress are picked out. Pure."""

from __future__ import annotations

from kqs.minding.frames import PROGRESS_BYTES
from kqs.minding.said import may_be_kept

#: begins a line on stderr that tells how far the command is, as JSON
MARK = b"KQS-PROGRESS "
#: what is kept of such a line until it is whole: more than any that counts
_MARKED_BYTES = len(MARK) + 2 * PROGRESS_BYTES
#: what is kept of stderr: a reason of a failure is stored up to 4,000 characters
ERRORS_BYTES = 3500


class Tail:
    """See the module docstring. data: what is kept. is_cut: of more.

    progress: of the last line that has some; None: none, or taken. wrong: of a line that has none, likewise.
    """

    def __init__(self) -> None:
        self.data = b""
        self.is_cut = False
        self.progress: bytes | None = None
        self.wrong: bytes | None = None
        self._told: list[bytes] = []  # what is told by lines of the piece that was written last
        self._begun = b""  # of a line that may be one
        self._is_inside = False  # of a line that is none

    def receive_data(self, data: bytes) -> None:
        """Take what was written."""
        if data and not self._begun and MARK[:1] not in data:
            self._keep(data)
            self._is_inside = not data.endswith(b"\n")
            return
        *lines, rest = data.split(b"\n")
        plain: list[bytes] = []
        for line in lines:
            self._receive_line(line, plain)
        self._receive_begin(rest, plain)
        self._keep(b"".join(plain))
        if self._told:
            self._read_told()

    @property
    def has_told(self) -> bool:
        """Tell whether there is something to take."""
        return self.progress is not None or self.wrong is not None

    def take(self) -> list[bytes]:
        """Take what lines of progress have told: what is wrong first, for who reads it may know better."""
        told = [text for text in (self.wrong, self.progress) if text is not None]
        self.progress = self.wrong = None
        return told

    def end(self) -> None:
        """Take in that nothing more comes. A line of progress that was cut short is none, and nothing else either."""
        if not self._begun.startswith(MARK):
            self._keep(self._begun)
        self._begun = b""

    def _receive_line(self, line: bytes, plain: list[bytes]) -> None:
        """Take the rest of a line that is whole."""
        if self._is_inside:
            self._is_inside = False
            plain += (line, b"\n")
            return
        line, self._begun = self._begun + line, b""
        if line.startswith(MARK):
            self._told.append(line[len(MARK) :].strip()[: PROGRESS_BYTES + 1])
        else:
            plain += (line, b"\n")

    def _read_told(self) -> None:
        """Find the last progress among what was told. From the end, since of lines that are written in a loop one is read."""
        for text in reversed(self._told):
            if may_be_kept(text):
                self.progress = text
                break
            self.wrong = text
        self._told.clear()

    def _receive_begin(self, begin: bytes, plain: list[bytes]) -> None:
        """Take a part of a line whose end is still to come."""
        if self._is_inside:
            plain.append(begin)
            return
        begin = self._begun + begin
        if begin.startswith(MARK) or MARK.startswith(begin):
            self._begun = begin[:_MARKED_BYTES]
        else:
            self._begun, self._is_inside = b"", True
            plain.append(begin)

    def _keep(self, data: bytes) -> None:
        self.data += data
        if len(self.data) > ERRORS_BYTES:
            self.is_cut = True
            self.data = self.data[-ERRORS_BYTES:]
