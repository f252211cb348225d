"""What the system does at a signal, kept and put back from any thread.

`signal.signal` works in the main thread only, and that may hang in users' code after it gave a signal away: a signal that is
ignored does not even interrupt it.
"""

from __future__ import annotations

import ctypes

#: more than the C library's `struct sigaction` takes anywhere (152 bytes on x86-64)
_ACTION_BYTES = 1024
#: how such a structure begins where the signal is given away: SIG_DFL as ctypes has it, SIG_IGN
_DEAF = (None, 1)

_libc = ctypes.CDLL(None, use_errno=True)

Action = ctypes.Array[ctypes.c_char]


def action_of(number: int) -> Action:
    """Return what is done at a signal now."""
    action = ctypes.create_string_buffer(_ACTION_BYTES)
    _libc.sigaction(number, None, action)
    return action


def put_back(number: int, action: Action) -> None:
    """Have this done at a signal if nobody hears it: it is ignored, or ends the process.

    Python goes on calling it ignored or deadly, and calls nobody: the number is written to the wake-up descriptor all the same.
    """
    if ctypes.c_void_p.from_buffer(action_of(number)).value in _DEAF:
        _libc.sigaction(number, action, None)
