"""Answers that clients do not read: how much of them all clients of a gateway together may leave here.

One that does not read is not read either, and closed after `--stuck`. But what it has asked for by then comes
as answers of up to 1 MiB each, and there may be thousands of such clients. So beyond a bound those that leave
most are closed at once, as after `--stuck`: whoever reads leaves next to nothing.

It costs nothing where everybody reads: it is looked at once a second, when the gateways look at each
connection anyway, and shortly after one has got so far behind that it is not read any more. What comes in
between, which may be a long turn of the loop, goes beyond the bound. An answer that is sent in part is in
memory as a whole: memory is some two times what is counted here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Iterable
from typing import Final, Protocol

from common.logs import Throttle

log = logging.getLogger(__name__)

SOON_S: Final = 0.05
"""Much comes behind the bound in a second. Ten thousand connections are looked at in a millisecond."""

WARN_EVERY_S: Final = 5.0


class Reader(Protocol):
    """A connection."""

    @property
    def unsent_bytes(self) -> int: ...

    def abort(self) -> None: ...


def most_unsent(sizes: Iterable[int], limit_bytes: int) -> list[int]:
    """The places of the largest sizes, as few as it takes for the rest to be within the limit."""
    by_size = sorted(((size, place) for place, size in enumerate(sizes)), reverse=True)
    left, places = sum(size for size, _ in by_size), []
    for size, place in by_size:
        if left <= limit_bytes:
            break
        left -= size
        places.append(place)
    return places


class UnsentBound:
    """Of one gateway, whose `connections` it looks at."""

    def __init__(self, gateway: str, connections: Collection[Reader], limit_bytes: int) -> None:
        self._gateway = gateway
        self._connections = connections
        self._limit_bytes = limit_bytes
        self._warnings = Throttle(WARN_EVERY_S)
        self._is_due = False

    def keep_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_due:
            self._is_due = True
            loop.call_later(SOON_S, self.keep)

    def keep(self) -> None:
        """Close those that leave most, where all of them leave too much."""
        self._is_due = False
        sizes = [connection.unsent_bytes for connection in self._connections]
        unsent = sum(sizes)
        if unsent <= self._limit_bytes:
            return
        places = set(most_unsent(sizes, self._limit_bytes))
        for connection in [each for place, each in enumerate(self._connections) if place in places]:
            connection.abort()
        held = self._warnings.passes(time.monotonic())
        if held is not None:
            log.warning(
                "gateway=%s unsent_bytes=%s limit=%s connections=%s closing=%s held_back=%s",
                self._gateway,
                unsent,
                self._limit_bytes,
                len(sizes),
                len(places),
                held,
            )
