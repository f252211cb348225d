"""Addresses as they may be shown: without who logs in there, and with which password."""

from __future__ import annotations

import re

#: up to the last @: a password may have others in it, and slashes, where nobody has encoded them
_LOGIN = re.compile(r"//.*@", re.DOTALL)


def without_login(address: str) -> str:
    """Return an address, or any other text, without the login in it."""
    return _LOGIN.sub("//…@", address)
