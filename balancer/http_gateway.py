"""The HTTP server: uvicorn in the balancer's own event loop, with the bounds that it leaves open.

uvicorn bounds neither the head of a request nor the time that one may take to arrive, and answers
what is not HTTP in plain text: `BoundedHttp` has bounds, and answers in JSON.

Every request that arrived in full gets its response, in order, whatever comes after it: nonsense
(its refusal is sent last) or the end of the client's sending. Then the connection closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from balancer.http_app import CLOSE, READ_TIMEOUT_S, Headers, HttpApp, Response, plain_error
from balancer.router import Router
from balancer.tcp_gateway import STUCK_S

log = logging.getLogger(__name__)

MAX_HEAD_BYTES: Final = 32 * 1024
"""URL and headers. The longest meaningful URL has under 8 KB, proxies add some headers."""

KEEP_ALIVE_S: Final = 75
"""For the next request on a connection: above the usual 60 s of proxies, so that they close first."""

MAX_CONNECTIONS: Final = 10_000
"""Each has one request in progress; others wait unread."""

SWEEP_S: Final = 1.0
BACKLOG: Final = 1024


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with bounds on the number of connections, and on size and time of a head."""

    _head_bytes = 0
    head_since_s: float | None = None
    """When the head at hand, or the connection, began; None while a request is being served."""
    _ending = False
    """The connection closes after the responses that are due …"""
    _last_words: Response | None = None
    """… and this one."""
    _start: Any = None
    """The message that began the response at hand."""
    _unread_since_s: float | None = None
    """Since when the client does not read what was written, or the connection waits for that to close."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.head_since_s = self.loop.time()
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(503, "overloaded", f"more than {MAX_CONNECTIONS} connections")

    def data_received(self, data: bytes) -> None:
        if not self._ending:  # else it is dropped: left unread it would make a reset of the close
            super().data_received(data)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has sent its last request, and may wait for responses."""
        if not self._ending:
            self._end(None)
        return True  # `_end` closes the transport, now or later

    def on_response_complete(self) -> None:
        last = not self.pipeline
        super().on_response_complete()
        if self.pipeline:  # uvicorn reads on after each response: many requests would come for one that goes
            self.flow.pause_reading()
        if last and self._ending:
            self._close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        self.head_since_s = self.loop.time()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self.head_since_s = None
        super().on_headers_complete()
        self.cycle.send = partial(self._send, self.cycle)  # type: ignore[method-assign]

    async def _send(self, cycle: RequestResponseCycle, message: Any) -> None:
        """In place of the cycle's own: one write a response, and headers that are ours are not checked.

        The app sends a response in two messages, one after the other.
        """
        if message["type"] == "http.response.start":
            self._start = message
            cycle.response_started = True
            return
        del cycle.send  # a reference to itself
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        cycle.response_complete = True
        if cycle.disconnected or self.transport.is_closing():
            return
        status, headers = self._start["status"], self._start["headers"]
        cycle.keep_alive = cycle.keep_alive and CLOSE not in headers
        body = b"" if cycle.scope["method"] == "HEAD" else message["body"]
        self._write(status, headers, body, cycle.keep_alive)
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError  # the parser stops, and `send_400_response` follows

    def send_400_response(self, msg: str) -> None:
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, "head_too_large", f"URL and headers exceed {MAX_HEAD_BYTES} bytes")
        else:
            self._refuse(400, "bad_http", "not a valid HTTP request")

    def pause_writing(self) -> None:
        self._unread_since_s = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_since_s = None
        super().resume_writing()

    def check(self, now_s: float, stuck_s: float) -> None:
        """Let a client go that is stuck."""
        if self._unread_since_s is not None:
            if now_s - self._unread_since_s >= stuck_s:
                log.warning("peer=%s does not read its responses, closing", self.client)
                self.transport.abort()
            return
        if self.transport.is_closing():
            self._unread_since_s = now_s  # it is here still, so something is unsent
            return
        if self.head_since_s is None or now_s - self.head_since_s < READ_TIMEOUT_S:
            return
        self._refuse(408, "request_timeout", f"no request arrived within {READ_TIMEOUT_S:.0f} s")

    def _refuse(self, status: int, name: str, message: str) -> None:
        if not self._ending:
            self._end(plain_error(status, name, message))

    def _end(self, last_words: Response | None) -> None:
        """Read no more, and close after the responses that are due and `last_words`."""
        self._ending = True
        self._last_words = last_words
        self.head_since_s = None
        cycle = self.cycle  # of the request that came last: done means that all are
        due = cycle is not None and not cycle.response_complete
        if due and cycle.more_body:  # the rest of it will not come
            due = bool(self.pipeline)
            if due:
                self.pipeline.popleft()
        elif due and last_words is None:
            cycle.keep_alive = False
        if not due:
            self._close()

    def _close(self) -> None:
        last = self._last_words
        if last is not None and not self.transport.is_closing():
            self._write(last.status, last.all_headers(), last.body, keep_alive=False)
        self.transport.close()

    def _write(self, status: int, headers: Headers, body: bytes, keep_alive: bool) -> None:
        parts = [STATUS_LINE[status]]
        for header in (*self.server_state.default_headers, *headers):  # the date, and the app's
            if header != CLOSE:
                parts.append(b"%b: %b\r\n" % header)
        parts.append(b"\r\n" if keep_alive else b"connection: close\r\n\r\n")
        parts.append(body)
        self.transport.write(b"".join(parts))


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are the command's


class HttpGateway:
    def __init__(self, router: Router, drain_s: float, stuck_s: float = STUCK_S) -> None:
        self._stuck_s = stuck_s
        self._app = HttpApp(router)
        self._server = _Server(
            uvicorn.Config(
                self._app,
                http=BoundedHttp,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=math.ceil(drain_s),
                backlog=BACKLOG,
            )
        )
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # it warns of each bad request
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    async def open(self, listener: socket.socket) -> None:
        self._task = self._loop.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0)
        self._sweep()

    def stop_accepting(self) -> None:
        """The listener closes within a moment; connections end once their request is answered."""
        self._app.closing = True
        self._server.should_exit = True

    async def drain(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._task is not None:
            await self._task

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
        now_s = self._loop.time()
        for connection in list(self._server.server_state.connections):
            if isinstance(connection, BoundedHttp):
                connection.check(now_s, self._stuck_s)
