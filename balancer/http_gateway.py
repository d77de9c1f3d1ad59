"""The HTTP server: uvicorn in the balancer's own event loop, with the bounds that it leaves open.

uvicorn bounds neither the head of a request nor the time that one may take to arrive, and answers
what is not HTTP in plain text: `BoundedHttp` has bounds, and answers in JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import math
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from balancer.http_app import READ_TIMEOUT_S, HttpApp, plain_error
from balancer.router import Router

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

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.head_since_s = self.loop.time()
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(503, "overloaded", f"more than {MAX_CONNECTIONS} connections")

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

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError  # the parser stops, and `send_400_response` follows

    def send_400_response(self, msg: str) -> None:
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, "head_too_large", f"URL and headers exceed {MAX_HEAD_BYTES} bytes")
        else:
            self._refuse(400, "bad_http", "not a valid HTTP request")

    def check(self, now_s: float) -> None:
        if self.head_since_s is None or now_s - self.head_since_s < READ_TIMEOUT_S:
            return
        self._refuse(408, "request_timeout", f"no request arrived within {READ_TIMEOUT_S:.0f} s")

    def _refuse(self, status: int, name: str, message: str) -> None:
        response = plain_error(status, name, message)
        head = (
            f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(response.body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + response.body)
        self.transport.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are the command's


class HttpGateway:
    def __init__(self, router: Router, drain_s: float) -> None:
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
                connection.check(now_s)
