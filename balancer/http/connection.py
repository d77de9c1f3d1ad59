"""One HTTP connection: whose turn it is, what is read, what is written, and how it ends.

* Requests are served one after the other, as one may rest on what the one before it has changed. Those
  that were pipelined wait, a few of them parsed, the rest as bytes, and no more is read meanwhile.
* Every request that arrived in full gets its response, whatever comes after it: nonsense (its
  refusal is sent last) or the end of the client's sending. Then the connection ends. A request that
  is cut short is not carried out.
* The time that a client may take is bounded (`patience`). One that does not read its responses gets no
  further request served.
* Responses that become ready in one turn of the loop leave in one write.

    _unread ──reader──▶ _waiting ──its turn──▶ _current ──app──▶ respond

Whatever is more than to answer one request at once is done by `_go_on`, which `_busy` asks for.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from ipaddress import ip_address
from typing import Final, Protocol

from balancer.client_limits import ClientLimits
from balancer.http.message import (
    CONTINUE,
    JSON,
    Refusal,
    Request,
    encode_response,
    encode_stream_head,
    plain_error,
)
from balancer.http.patience import Patience, Verdict
from balancer.http.reader import PIECE_BYTES, Awaits, RequestReader
from balancer.tls_entrance import peer_of, unsent_bytes, warn_of_tls
from common.tls import HANDSHAKE

LARGE_BYTES: Final = 4096
"""A larger response does not wait for others to leave with, so that a client that does not read is noticed.
Smaller ones are no more than the requests of one piece ask for."""

log = logging.getLogger(__name__)


class Service(Protocol):
    """What a connection needs of the gateway that it belongs to."""

    loop: asyncio.AbstractEventLoop
    closing: bool
    """Each response is the last one of its connection."""
    stuck_s: float
    limits: ClientLimits
    date: bytes

    def serve(self, request: Request) -> None:
        """Have it answered, now or later. Does not raise."""

    def admit(self, connection: Connection) -> str:
        """Why there is no room for one more connection, "" if there is."""

    def forget(self, connection: Connection) -> None: ...

    def note_refusal(self, name: str) -> None: ...

    def is_behind(self) -> None:
        """A connection has left so much unread that it is served no more."""


class Connection(asyncio.Protocol):
    """It owns its `RequestReader`, and is the `Responder` of its requests."""

    _transport: asyncio.Transport

    def __init__(self, service: Service) -> None:
        self._service = service
        limits = service.limits
        self._reader = RequestReader(self, limits.max_message_bytes)
        self._unread: memoryview | None = None
        """Received, but not parsed yet: what came before it is to be dealt with first."""
        self._waiting: deque[Request] | None = None
        self._current: Request | None = None
        self._output: list[bytes] = []
        """Responses that wait for others to leave with …"""
        self._joins = False
        """… as long as this is set."""
        self._busy = False
        self._go_on_is_due = False
        self._continue_due = False
        """The client waits for our word before it sends a body."""
        self._ending = False
        """No further request is taken; the connection ends after the responses that are due …"""
        self._last_words: Refusal | None = None
        """… and this one."""
        self._streams = False
        """The current response goes on until it is ended."""
        self._finished = False
        """All is written."""
        self._eof = False
        self._patience = Patience(limits.read_timeout_s, limits.keep_alive_s)
        self._active = False
        """A request was taken since the last `check`."""

    # --- called by the event loop ------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        no_room = self._service.admit(self)
        if no_room:
            self._refuse(503, "overloaded", no_room, b"retry-after: 1\r\n")

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        if self._unread is None and len(data) <= PIECE_BYTES:
            self._joins = True
            self._reader.feed(data)
            self._joins = False
            if self._output:
                self._flush()
        else:
            self._unread = memoryview(bytes(self._unread or b"") + data)
            self._busy = True
        if self._busy:
            if data.startswith(HANDSHAKE):
                warn_of_tls("http", self._transport)
            self._go_on()

    def eof_received(self) -> bool:
        """The client has sent its last request, and may wait for responses."""
        self._eof = True
        if self._finished:
            return False
        self._ending = True
        self._go_on()
        return (
            self._transport.can_write_eof()
        )  # `_finish` closes the transport, now or later; TLS does at once

    def pause_writing(self) -> None:
        self._patience.unsent_since_s = self._service.loop.time()
        self._busy = True
        self._service.is_behind()

    def resume_writing(self) -> None:
        self._patience.unsent_since_s = None
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ending = self._finished = True
        self._current = self._waiting = self._unread = None
        self._reader.close()
        self._service.forget(self)

    # --- called by the reader ----------------------------------------------------------------

    def take(self, request: Request) -> None:
        self._active = True
        if self._service.closing:
            request.keep_alive = False
        if not request.keep_alive:
            self._ending = self._busy = True
        if self._current is None and not self._waiting and self._patience.unsent_since_s is None:
            self._current = request
            self._service.serve(request)
            return
        self._busy = True
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(request)

    def expect(self) -> None:
        self._continue_due = self._busy = True

    def refuse(self, refusal: Refusal) -> None:
        if not self._ending:
            self._service.note_refusal(refusal.name)
            self._ending = self._busy = True
            self._last_words = refusal
            self._go_on_soon()

    # --- called by the application and the gateway -------------------------------------------

    @property
    def awaits_first(self) -> bool:
        """No request has come yet, or not all of it."""
        return not self._ending and self._reader.awaits is not Awaits.NEXT and not self._is_due

    @property
    def unsent_bytes(self) -> int:
        return unsent_bytes(self._transport)

    def respond(self, request: Request, status: int, body: bytes, more: bytes, kind: bytes = JSON) -> None:
        if request is not self._current:
            return  # the client went away meanwhile
        self._current = None
        bare, close = request.verb == b"HEAD", not request.keep_alive
        date = self._service.date
        data = encode_response(status, date, body, more, bare, close, kind)
        if self._joins:
            self._output.append(data)
            if len(data) > LARGE_BYTES:
                self._flush()
        else:
            self._transport.write(data)
        if self._busy:
            self._go_on_soon()

    @property
    def is_local(self) -> bool:
        name = self._transport.get_extra_info("peername")
        return bool(name) and ip_address(str(name[0]).partition("%")[0]).is_loopback

    def stream(self, request: Request, kind: bytes) -> bool:
        if request is not self._current:
            return False
        request.keep_alive = False
        self._ending = self._busy = True
        self._waiting = None
        if self._output:
            self._flush()
        self._transport.write(encode_stream_head(self._service.date, kind))
        self._streams = True
        return True

    def send_piece(self, request: Request, piece: bytes) -> bool:
        if request is not self._current:
            return False
        if not self._is_stuck:
            self._transport.write(piece)
        return True

    def end_stream(self, request: Request) -> None:
        if request is self._current:
            self._current = None
            self._go_on_soon()

    def check(self, now_s: float) -> None:
        """Let a client go that is stuck; to be called about once a second."""
        active, self._active = self._active or self._is_due, False
        awaits = None if self._finished else self._reader.awaits
        verdict = self._patience.judge(now_s, self._service.stuck_s, awaits, active)
        if verdict is Verdict.CUT:
            log.warning("peer=%s does not read its responses, closing", self._peer)
            self.abort()
        elif verdict is Verdict.LATE:
            what = "the body did not arrive" if awaits is Awaits.BODY else "no request arrived"
            self._refuse(408, "request_timeout", f"{what} within {self._service.limits.read_timeout_s:.0f} s")
        elif verdict is Verdict.END and self._finished:
            self._transport.close()
        elif verdict is Verdict.END:
            self.end_if_idle()

    def wind_up(self) -> None:
        """The gateway closes: what has begun is finished, and the last response says so."""
        if self._streams and self._current is not None:
            self.end_stream(self._current)
        elif self._reader.arriving is not None:
            self._reader.arriving.keep_alive = False
        elif self._is_due and self._is_between_requests:
            last = self._waiting[-1] if self._waiting else self._current
            assert last is not None
            last.keep_alive = False
            self._ending = self._busy = True

    def end_if_idle(self) -> None:
        if not self._is_due and self._is_between_requests:
            self._ending = True
            self._go_on()

    def abort(self) -> None:
        self._ending = self._finished = True
        self._current = self._waiting = None
        self._transport.abort()

    # --- states ------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Serve whose turn it is, parse more, end the connection: whatever of it can be done now."""
        if self._finished:
            return
        self._go_on_is_due = self._joins = True  # responses that are ready at once need not ask for it
        while self._waiting and self._current is None and not self._is_stuck:
            self._current = self._waiting.popleft()
            self._service.serve(self._current)
        again = self._parse()
        self._joins = False
        if self._output:
            self._flush()
        if self._ending:
            self._unread = None
            if not self._is_due:
                self._finish()
        elif self._continue_due and not self._is_due:
            self._continue_due = False
            self._transport.write(CONTINUE)
        self._busy = bool(self._ending or self._continue_due or self._unread or self._waiting)
        self._update_reading()
        self._go_on_is_due = False
        if again:
            self._go_on_soon()

    def _go_on_soon(self) -> None:
        if not self._go_on_is_due:
            self._go_on_is_due = True
            self._service.loop.call_soon(self._go_on)

    def _parse(self) -> bool:
        """Parse one piece, or all that belongs to one body; whether to go on in the next turn of the loop."""
        while self._unread and not self._waiting and not self._ending and not self._is_stuck:
            piece, rest = self._unread[:PIECE_BYTES], self._unread[PIECE_BYTES:]
            self._unread = rest if rest else None
            before = self._reader.arriving
            self._reader.feed(piece)
            if before is None or self._reader.arriving is not before:
                return not self._waiting
        return False

    def _update_reading(self) -> None:
        """Read or not. At the end, input is read and dropped: unread it would make a reset of the close."""
        if self._transport.is_closing():
            return
        may_read = self._ending or (self._unread is None and not self._waiting and not self._is_stuck)
        if may_read and not self._transport.is_reading():
            self._transport.resume_reading()
        elif not may_read and self._transport.is_reading():
            self._transport.pause_reading()

    @property
    def _is_stuck(self) -> bool:
        """The client does not read what was written."""
        return self._patience.unsent_since_s is not None

    @property
    def _is_due(self) -> bool:
        """A response is."""
        return self._current is not None or bool(self._waiting)

    @property
    def _is_between_requests(self) -> bool:
        """Nothing of a further request is here."""
        return self._unread is None and self._reader.awaits in (Awaits.FIRST, Awaits.NEXT)

    def _refuse(self, status: int, name: str, message: str, more: bytes = b"") -> None:
        self.refuse(Refusal(status, name, plain_error(name, message), more))

    def _flush(self) -> None:
        output, self._output = self._output, []
        self._transport.write(b"".join(output))

    def _finish(self) -> None:
        self._finished = self._active = True
        transport, last = self._transport, self._last_words
        if last is not None and not transport.is_closing():
            date = self._service.date
            transport.write(encode_response(last.status, date, last.body, last.more, False, True))
            if not self._eof and transport.can_write_eof():
                transport.write_eof()
                return  # until the client closes too, or LINGER_S has passed
        transport.close()

    @property
    def _peer(self) -> str:
        return peer_of(self._transport)
