"""How long a client may take: for a request, for the next one, to read responses, to close: pure, no clock.

It is asked about once a second; a client has a second more than the limits say, at most two.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from balancer.http.reader import Awaits

READ_TIMEOUT_S: Final = 30.0
"""For a head to arrive, and for a body. The default of a setting."""

KEEP_ALIVE_S: Final = 75.0
"""For the next request on a connection: above the usual 60 s of proxies, so that they close first.
The default of a setting."""

LINGER_S: Final = 1.0
"""How long input is dropped after a refusal and our EOF. A close while the client still sends would
be a reset, which may destroy the refusal on its way. Source: RFC 9112 §9.6."""


class Verdict(Enum):
    WAIT = "let it be"
    END = "it has no further request, or does not close: end it"
    LATE = "what it has begun does not come: tell it so, and end it"
    CUT = "it does not read what was written: it is of no use to wait until it has"


class Patience:
    """Of one connection with its client."""

    __slots__ = ("_awaited", "_keep_alive_s", "_read_timeout_s", "_since_s", "unsent_since_s")

    def __init__(self, read_timeout_s: float = READ_TIMEOUT_S, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self._read_timeout_s = read_timeout_s
        self._keep_alive_s = keep_alive_s
        self.unsent_since_s: float | None = None
        """Since when the client does not read what was written."""
        self._awaited: Awaits | None = Awaits.FIRST
        """What the client owes us, None for the end of the connection …"""
        self._since_s: float | None = None
        """… since then; None while it is our turn."""

    def judge(self, now_s: float, stuck_s: float, awaits: Awaits | None, active: bool) -> Verdict:
        """`awaits` is None once all is written; `active` if it was our turn since the last time."""
        if self.unsent_since_s is not None:
            return Verdict.CUT if now_s - self.unsent_since_s >= stuck_s else Verdict.WAIT
        if active or awaits is not self._awaited or self._since_s is None:
            self._awaited, self._since_s = awaits, now_s
            return Verdict.WAIT
        waited_s = now_s - self._since_s
        if awaits is None:
            if waited_s >= stuck_s:
                return Verdict.CUT
            return Verdict.END if waited_s >= LINGER_S else Verdict.WAIT
        if awaits is Awaits.NEXT:
            return Verdict.END if waited_s >= self._keep_alive_s else Verdict.WAIT
        return Verdict.LATE if waited_s >= self._read_timeout_s else Verdict.WAIT
