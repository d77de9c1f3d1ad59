"""The HTTP server: accepts connections, looks after stuck clients, and ends them all when the balancer stops.

`connection` is what a connection does, `app` what requests mean.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import Final

from balancer.arrivals import Arrivals
from balancer.client_limits import DEFAULT_CLIENT_LIMITS, ClientLimits
from balancer.http.app import HttpApp
from balancer.http.connection import Connection
from balancer.http.message import encode_date, encode_response, plain_error
from balancer.router import Router
from balancer.tcp_gateway import STUCK_S
from balancer.tls_entrance import HTTP, PLAIN_MESSAGE, Certificates, TlsEntrance
from balancer.unsent import UnsentBound
from common.logs import Throttle
from common.security.keyring import Keyring

log = logging.getLogger(__name__)

SWEEP_S: Final = 1.0
"""Clients are let go so much later than they might be, and so late the header Date may be."""

WARN_EVERY_S: Final = 5.0


class HttpGateway:
    """The `Service` of its connections."""

    def __init__(
        self,
        router: Router,
        drain_s: float,
        stuck_s: float = STUCK_S,
        keyring: Keyring | None = None,
        limits: ClientLimits = DEFAULT_CLIENT_LIMITS,
        certificates: Certificates | None = None,
    ) -> None:
        """Without a `keyring` everybody may do everything; without `certificates` it is plain text."""
        self.loop = asyncio.get_running_loop()
        self.stuck_s = stuck_s
        self.limits = limits
        self.closing = False
        self.date = encode_date(time.time())
        self._router = router
        self._app = HttpApp(router, keyring)
        self.serve = self._app.serve
        self._drain_s = drain_s
        self._connections: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._refused = Throttle(WARN_EVERY_S)
        self._unsent = UnsentBound("http", self._connections, limits.max_unsent_bytes)
        entrance: TlsEntrance | None = None
        if certificates is not None:
            entrance = TlsEntrance(certificates, HTTP, "http", lambda: Connection(self), self._no_tls)
        self._arrivals = Arrivals(lambda: Connection(self), entrance)

    async def open(self, listener: socket.socket) -> None:
        await self._arrivals.open(listener)
        self._sweep()

    def make_responses_last(self) -> None:
        """Connections end once their request is answered; new ones are still accepted."""
        self.closing = self._app.closing = True
        for connection in list(self._connections):
            connection.wind_up()

    @property
    def awaits_first(self) -> bool:
        """Somebody has connected, and not sent a request yet."""
        return self._arrivals.shake_hands or any(each.awaits_first for each in self._connections)

    async def stop_accepting(self) -> None:
        self.make_responses_last()
        await self._arrivals.stop()

    async def drain(self) -> None:
        """Let every connection end once it has its responses; cut what is left after `drain_s`."""
        give_up_s = self.loop.time() + self._drain_s
        self._arrivals.abandon_handshakes()
        for connection in list(self._connections):
            connection.end_if_idle()
        while self._connections and self.loop.time() < give_up_s:
            await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _no_tls(self) -> bytes:
        body = plain_error("tls_required", PLAIN_MESSAGE)
        return encode_response(400, self.date, body, b"", False, True)

    # --- for connections ---------------------------------------------------------------------

    def admit(self, connection: Connection) -> str:
        self._connections.add(connection)  # refused ones have to end, too
        limit = self.limits.max_connections
        if len(self._connections) <= limit:
            return ""
        held = self._refused.passes(time.monotonic())
        if held is not None:
            log.warning("connection refused limit=%s held_back=%s", limit, held)
        return f"more than {limit} connections"

    def is_behind(self) -> None:
        self._unsent.keep_soon(self.loop)

    def note_refusal(self, name: str) -> None:
        """What was answered was no request, or too much of one."""
        self._router.refused[name] += 1

    def forget(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def _sweep(self) -> None:
        self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)
        self.date = encode_date(time.time())
        now_s = self.loop.time()
        for connection in list(self._connections):
            connection.check(now_s)
        self._unsent.keep()
