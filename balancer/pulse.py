"""What a front tells the service manager, out of its own event loop: that the loop turns, and what it has.

A loop that stands still says nothing, and is restarted by systemd when the unit's `WatchdogSec=` is over.
"""

from __future__ import annotations

import asyncio
from typing import Final, Self

from balancer.router import Router
from common.process.notify import Notifier

EVERY_S: Final = 0.5
"""As often as heartbeats go out."""


class Pulse:
    """From `with` on, when the listeners are open, until the process ends. Use within a running loop."""

    def __init__(self, router: Router, peers: str) -> None:
        """`peers` is what the router's peers are called: raters, or balancers."""
        self._router = router
        self._peers = peers
        self._loop = asyncio.get_running_loop()
        self._notifier = Notifier()
        self._timer: asyncio.TimerHandle | None = None
        self._state = "listening"

    def __enter__(self) -> Self:
        self._beat()
        self._notifier.ready()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._notifier.close()

    def stopping(self) -> None:
        self._state = "draining"
        self._notifier.stopping()

    def _beat(self) -> None:
        self._timer = self._loop.call_later(EVERY_S, self._beat)
        raters, epoch = self._router.readiness
        self._notifier.status(f"{self._state}, {raters} {self._peers} take work, tariff epoch {epoch}")
        self._notifier.alive()
