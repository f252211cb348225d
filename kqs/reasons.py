"""Why the system refused something, for people: in its words, and without the number that it has for them."""

from __future__ import annotations

import os
import re

#: how asyncio says of a connection what the system said of it, and of an error for each address of a name
_CONNECTING = "Connect call failed"
_NUMBER = re.compile(rf"\[Errno (\d+)\] {_CONNECTING}")


def reason_of(error: OSError) -> str:
    """Return why; without the file that it was about, which whoever tells of it names. Empty where nothing is said."""
    said = error.strerror or str(error)
    if error.errno is not None and said.startswith(_CONNECTING):
        said = os.strerror(error.errno)
    elif error.errno is None and (numbers := _NUMBER.findall(said)):
        return ", ".join(dict.fromkeys(_begun_small(os.strerror(int(number))) for number in numbers))
    return _begun_small(said)


def reason_with_file(error: OSError) -> str:
    """Return why, and behind it the file that it was about, if it was about one."""
    return f"{reason_of(error)}: {error.filename}" if error.filename is not None else reason_of(error)


def _begun_small(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
