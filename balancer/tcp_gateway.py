"""JSON-RPC over TCP: moves bytes between connections, their sessions and the router.

What a message is and how it is answered is `common.rpc.jsonrpc`'s; which rater does it, dispatch's.
Here is what belongs to connections: one write a turn of the loop for all the answers it brought,
bounds on what one client and all of them may take, and orderly ends:

* a read may hold many messages: what `Session.feed` leaves waits its turn, one connection's share
  in each turn of the loop, and the connection is not read meanwhile;
* a client that has sent EOF gets the answers it is owed, then the connection closes;
* where this side ends it (framing lost, shutdown), the last answers are followed by EOF, and what
  still comes in is read and dropped for a moment: closing with unread input would send a reset,
  which can overtake the answers.

With TLS (`balancer.tls_entrance`) the transport does the last of these. It knows no half-closed connections:
a client's end is the end, and answers that it is owed by then are not sent.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import deque
from dataclasses import replace
from typing import Final

from balancer.arrivals import Arrivals
from balancer.client_limits import DEFAULT_CLIENT_LIMITS, ClientLimits
from balancer.router import Router
from balancer.tcp_connection import Connection
from balancer.tls_entrance import JSONRPC, PLAIN_MESSAGE, Certificates, TlsEntrance
from balancer.unsent import UnsentBound
from common.errors import ParseError, encode_error
from common.logs import Throttle
from common.rpc.jsonrpc import DEFAULT_LIMITS
from common.security.keyring import Keyring

log = logging.getLogger(__name__)

STUCK_S: Final = 30.0
"""A client that has not read its answers, or not finished a message, for this long is let go. The
default of a setting."""

SWEEP_S: Final = 1.0
WARN_EVERY_S: Final = 5.0


class TcpGateway:
    def __init__(
        self,
        router: Router,
        stuck_s: float = STUCK_S,
        keyring: Keyring | None = None,
        limits: ClientLimits = DEFAULT_CLIENT_LIMITS,
        certificates: Certificates | None = None,
    ) -> None:
        """Without a `keyring` everybody may do everything; without `certificates` it is plain text."""
        self.router = router
        self.stuck_s = stuck_s
        self.keyring = keyring
        self.limits = limits
        self.session_limits = replace(DEFAULT_LIMITS, max_message_bytes=limits.max_message_bytes)
        self.closing = False
        self._loop = asyncio.get_running_loop()
        self._connections: set[Connection] = set()
        self._to_write: list[Connection] = []
        self._to_go_on: deque[Connection] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._refused = Throttle(WARN_EVERY_S)
        self._unsent = UnsentBound("jsonrpc", self._connections, limits.max_unsent_bytes)
        entrance: TlsEntrance | None = None
        if certificates is not None:
            entrance = TlsEntrance(certificates, JSONRPC, "jsonrpc", lambda: Connection(self), _no_tls)
        self._arrivals = Arrivals(lambda: Connection(self), entrance)

    async def open(self, listener: socket.socket) -> None:
        await self._arrivals.open(listener)
        self._sweep()

    @property
    def awaits_first(self) -> bool:
        """Somebody has connected, and not sent a call yet."""
        return self._arrivals.shake_hands or any(each.awaits_first for each in self._connections)

    async def stop_accepting(self) -> None:
        await self._arrivals.stop()

    async def drain(self, timeout_s: float) -> None:
        """Let every connection end once it has its answers; cut what is left after `timeout_s`."""
        self.closing = True
        self._arrivals.abandon_handshakes()
        for connection in self._connections:
            self.write_soon(connection)
        give_up_s = time.monotonic() + timeout_s
        while self._connections and time.monotonic() < give_up_s:
            await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()

    # --- for connections ---------------------------------------------------------------------

    def admit(self, connection: Connection) -> bool:
        limit = self.limits.max_connections
        if len(self._connections) >= limit:
            self.router.refused["connection"] += 1
            held = self._refused.passes(time.monotonic())
            if held is not None:
                log.warning("connection refused limit=%s held_back=%s", limit, held)
            return False
        self._connections.add(connection)
        return True

    def forget(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def write_soon(self, connection: Connection) -> None:
        """Have `connection.write` called once when this turn of the loop is over."""
        if connection.write_is_due:
            return
        connection.write_is_due = True
        if not self._to_write:
            self._loop.call_soon(self._write_all)
        self._to_write.append(connection)

    def is_behind(self) -> None:
        """A connection has left so much unread that it is not read any more."""
        self._unsent.keep_soon(self._loop)

    def go_on_soon(self, connection: Connection) -> None:
        """Have `connection.go_on` called once, in a later turn of the loop: one connection in each."""
        if connection.go_on_is_due:
            return
        connection.go_on_is_due = True
        if not self._to_go_on:
            self._loop.call_soon(self._go_on_with_one)
        self._to_go_on.append(connection)

    def _go_on_with_one(self) -> None:
        connection = self._to_go_on.popleft()
        connection.go_on_is_due = False
        if self._to_go_on:
            self._loop.call_soon(self._go_on_with_one)
        connection.go_on()

    def _write_all(self) -> None:
        connections, self._to_write = self._to_write, []
        for connection in connections:
            connection.write_is_due = False
            connection.write()

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
        now_s = time.monotonic()
        for connection in list(self._connections):
            connection.check(now_s)
        self._unsent.keep()


def _no_tls() -> bytes:
    error = encode_error(ParseError(detail=PLAIN_MESSAGE))
    return b'{"jsonrpc":"2.0","id":null,"error":%b}\n' % error
