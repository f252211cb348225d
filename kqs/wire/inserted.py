"""What an insert is answered where that is more than an id, as both ends of the wire know it."""

from __future__ import annotations

import msgspec


class Inserted(msgspec.Struct, frozen=True, gc=False):
    """The full answer. id: of the job that is kept, or was joined. created: whether this insert made it."""

    id: str
    created: bool


class Refused(msgspec.Struct, frozen=True, gc=False):
    """The answer, in its place in an array, to a job that was refused while others were kept."""

    code: str
    message: str = ""
