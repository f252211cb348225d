"""What a call may end with that the server did not say."""

from __future__ import annotations

from kqs.errors import KqsError


class ConnectionLostError(KqsError):
    """The connection ended before the answer came; whether the call was done is unknown."""


class UnreachableError(ConnectionLostError):
    """Nobody listens at the address; nothing was sent."""


class CallTimeoutError(KqsError, TimeoutError):
    """No answer in time; whether the call was or will be done is unknown."""

    code = "timeout"
