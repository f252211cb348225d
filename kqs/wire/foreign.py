"""Other protocols that come to our port: how a connection begins tells them apart.

A web page may have a browser send HTTP to any port of its machine, with a body of the page's choice, in which a line may well
be a call of ours. So whoever begins as HTTP does is not heard at all; nor is TLS, nor STUN, which pages can send as well.
A call begins with a brace or bracket, which begins none of them.
"""

from __future__ import annotations

import re

_JSON_BEGINNINGS = b"{["
_TLS_HANDSHAKE = b"\x16\x03"
#: stands in each STUN message, within the first bytes that WebRTC sends over TCP
_STUN_COOKIE = b"\x21\x12\xa4\x42"
_STUN_BYTES = 10
#: Of a long first line, its first and its last bytes are looked at: the method and the version.
_KEPT_BYTES = 8 * 1024

_VERSIONED = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t][^\n]*?(?:HTTP|RTSP|SIP|ICAP)/[0-9]", re.IGNORECASE)
_UNVERSIONED = re.compile(rb"(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|TRACE|CONNECT)[ \t]+(?:[/*]|https?:)", re.IGNORECASE)


class Greeting:
    """The beginning of one connection, until it is known what it is."""

    def __init__(self) -> None:
        self._start = b""
        self._end = b""  # of a first line that is longer than what is kept of it

    def is_foreign(self, data: bytes) -> bool | None:
        """Take what arrived; tell whether another protocol is spoken here, or None while that cannot be known.

        It is known before the first line that is not blank has ended, or with it.
        """
        line, newline, _ = self._take(data).partition(b"\n")
        if line[:1] and line[:1] in _JSON_BEGINNINGS:
            return False
        if line.startswith(_TLS_HANDSHAKE) or _STUN_COOKIE in line[:_STUN_BYTES]:
            return True
        if not newline:
            return None
        return bool(_VERSIONED.match(line) or _UNVERSIONED.match(line))

    def _take(self, data: bytes) -> bytes:
        """Return the first line that is not blank, as far as it came, without the middle of a long one."""
        start = self._start
        if len(start) < _KEPT_BYTES:
            start = (start + data).lstrip()
            head, data = start[:_KEPT_BYTES], start[_KEPT_BYTES:]
            if b"\n" in head:
                return head
            self._start = start = head
        rest, newline, _ = data.partition(b"\n")
        self._end = (self._end + rest)[-_KEPT_BYTES:]
        return start + self._end + newline
