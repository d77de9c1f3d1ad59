"""One connection of JSON-RPC over TCP: between its transport, its session and the router.

Orderly ends are `balancer.tcp_gateway`'s promise, kept here: who sent EOF gets what is owed, and who is sent
ours is listened to for a moment, so that no reset overtakes the answers.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import TYPE_CHECKING, Final, cast

from balancer.tls_entrance import peer_of, unsent_bytes, warn_of_tls
from common.rpc.jsonrpc import Call, Session
from common.security.visitor import Visitor
from common.tls import HANDSHAKE

if TYPE_CHECKING:
    from balancer.tcp_gateway import TcpGateway

log = logging.getLogger(__name__)

HIGH_WATER_BYTES: Final = 256 * 1024
"""Unsent answers of one connection. Above it reading stops: who does not read can't ask more."""

LINGER_S: Final = 1.0
"""How long input is dropped after our EOF, for the client to see the answers and close."""


class Connection(asyncio.Protocol):
    __slots__ = (
        "_ended_at_s",
        "_ending",
        "_eof",
        "_gateway",
        "_gone",
        "_most_in_flight",
        "_reading",
        "_router",
        "_session",
        "_transport",
        "_unfinished_since_s",
        "_visitor",
        "_write_paused_since_s",
        "go_on_is_due",
        "write_is_due",
    )

    _transport: asyncio.Transport

    def __init__(self, gateway: TcpGateway) -> None:
        self.write_is_due = False
        self.go_on_is_due = False
        self._gateway = gateway
        self._router = gateway.router
        self._most_in_flight = gateway.limits.max_in_flight
        self._session = Session(gateway.session_limits, self._router.refused)
        self._visitor = self._new_visitor() if gateway.keyring is not None else None
        self._reading = True
        self._eof = False
        self._ending = False
        """This side ends it, once everything is answered."""
        self._gone = False
        self._ended_at_s: float | None = None
        """When this side sent its EOF; from then on input is dropped."""
        self._unfinished_since_s: float | None = None
        """Since when the client owes the end of a message."""
        self._write_paused_since_s: float | None = None

    # --- called by the transport -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._gateway.admit(self):
            self._gone = True
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        sock: socket.socket = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        if self._ended_at_s is not None:
            return
        session = self._session
        found_before = session.found
        calls = session.feed(data)
        if self._visitor is not None or session.asks_front:
            calls = self._admitted(calls)
        in_flight = session.in_flight
        if calls:
            full = in_flight - len(calls) > self._most_in_flight
            (self._router.refuse_all if full else self._router.submit_all)(calls, self)
        if not session.unfinished:
            self._unfinished_since_s = None
        elif self._unfinished_since_s is None or session.found != found_before:
            self._unfinished_since_s = time.monotonic()
        if session.more or in_flight > self._most_in_flight or not self._reading:
            self._update_reading()
        if not calls or session.has_output:  # errors to write, or an end that waited for what was read
            self._gateway.write_soon(self)
            if data.startswith(HANDSHAKE):
                warn_of_tls("jsonrpc", self._transport)

    def eof_received(self) -> bool:
        self._eof = True
        if self._ended_at_s is not None:
            return False
        self._session.feed_eof()
        self._gateway.write_soon(self)
        return self._transport.can_write_eof()

    def pause_writing(self) -> None:
        self._write_paused_since_s = time.monotonic()
        self._update_reading()
        self._gateway.is_behind()

    def resume_writing(self) -> None:
        self._write_paused_since_s = None
        self._update_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        self._gateway.forget(self)

    # --- called by the router and the gateway ------------------------------------------------

    @property
    def awaits_first(self) -> bool:
        return not self._session.found and not self._eof

    @property
    def unsent_bytes(self) -> int:
        return 0 if self._gone else unsent_bytes(self._transport)

    def go_on(self) -> None:
        """With what was read before, if that is still wanted; `_update_reading` asks again."""
        if self._session.more and self._may_take and not self._gone:
            self.data_received(b"")

    def answer(self, slot: int, code: int, body: bytes) -> None:
        """As a `Sink`, for the router."""
        visitor = self._visitor
        if visitor is not None and visitor.counted:
            visitor.answered(slot)
        if code:
            self._session.fail(slot, body)
        else:
            self._session.answer(slot, body)
        if not self.write_is_due:
            self._gateway.write_soon(self)

    def write(self) -> None:
        """Write what there is, and end the connection if this was the last of it."""
        if self._gone:
            return
        session = self._session
        output = session.take_output()
        if output and self._ended_at_s is None:
            self._transport.write(output)
        if not self._reading:
            self._update_reading()
        if session.in_flight or session.more:
            return
        if self._eof or self._ending or session.closing or self._gateway.closing:
            self._end()

    def check(self, now_s: float) -> None:
        """Let a client go that is stuck."""
        stuck_s = self._gateway.stuck_s
        if self._ended_at_s is not None:
            if now_s - self._ended_at_s >= LINGER_S:
                self._transport.close()
            if now_s - self._ended_at_s >= stuck_s:
                self.abort()  # it never read the last answers
        elif self._write_paused_since_s is not None and now_s - self._write_paused_since_s >= stuck_s:
            log.warning("peer=%s does not read its answers, closing", self._peer)
            self.abort()
        elif self._visitor is not None and self._visitor.is_stranger(now_s):
            log.info("peer=%s has no valid API key, closing", self._peer)
            self._ending = True
            self.write()
        elif not self._reading or self._unfinished_since_s is None:
            return  # while it is not read, the end of its message may wait to be
        elif now_s - self._unfinished_since_s >= stuck_s:
            log.info("peer=%s does not finish its message, closing", self._peer)
            self._ending = True
            self._unfinished_since_s = None
            self._session.feed_eof()
            self.write()

    def abort(self) -> None:
        self._transport.abort()

    def _admitted(self, calls: list[Call]) -> list[Call]:
        """The calls that are for the router; the others are answered."""
        if self._visitor is None:
            self._visitor = self._new_visitor()
        return self._visitor.admit(calls)

    def _new_visitor(self) -> Visitor:
        return Visitor(self._session, self._gateway.keyring, self._gateway.limits.read_timeout_s)

    # --- states ------------------------------------------------------------------------------

    def _update_reading(self) -> None:
        """Read or not, by what the client owes us: its reading, and answers it waits for."""
        if self._gone or self._transport.is_closing():
            return
        may_read = self._may_take
        if may_read and self._session.more:
            self._gateway.go_on_soon(self)
            may_read = False
        if may_read and not self._reading:
            self._reading = True
            if self._unfinished_since_s is not None:
                self._unfinished_since_s = time.monotonic()
            self._transport.resume_reading()
        elif not may_read and self._reading:
            self._reading = False
            self._transport.pause_reading()

    @property
    def _may_take(self) -> bool:
        if self._write_paused_since_s is not None:
            return False
        return self._session.in_flight <= self._most_in_flight or self._gateway.router.overloaded

    def _end(self) -> None:
        if self._ended_at_s is not None:
            return
        self._ended_at_s = time.monotonic()
        if self._eof or not self._transport.can_write_eof():
            self._transport.close()
            return
        self._transport.write_eof()
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()

    @property
    def _peer(self) -> str:
        return peer_of(self._transport)
