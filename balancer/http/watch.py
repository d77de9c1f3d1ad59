"""What the HTTP gateway tells people and monitors of itself: /status.json, /events, /metrics.

Events are made once a second, once for all who listen. A client that does not read gets none meanwhile, and
is let go like any other that is stuck; a page that missed some gets the next one.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from balancer.http.message import Request, plain_error
from balancer.metrics import registry
from balancer.router import Router
from balancer.status import describe, seconds_row
from common.errors import InvalidParams, Unauthorized
from common.metrics import CONTENT_TYPE, text
from common.security.keyring import Grant

PATHS: Final = frozenset({b"/status.json", b"/events", b"/metrics"})

MAX_STREAMS: Final = 200
"""Open pages that are kept up to date: each costs some 10 µs a second, and a connection."""

RETRY_MS: Final = 2000
"""After which a browser comes again when the connection ends."""

EVENT_STREAM: Final = b"text/event-stream"
_NO_STORE: Final = b"cache-control: no-store\r\n"


class HttpWatch:
    def __init__(self, router: Router) -> None:
        self._router = router
        self._registry = registry(router)
        self._streams: list[tuple[Request, Grant | None]] = []
        self.closing = False
        self._is_told = False
        """`_send_events` is called every second."""

    def serve(self, request: Request, path: bytes, query: bytes, grant: Grant | None = None) -> None:
        """GET or HEAD of one of `PATHS`; `grant` is of the key, where one was needed."""
        if path == b"/events":
            self._stream(request, grant)
        elif path == b"/metrics":
            request.respond_with(CONTENT_TYPE, text(self._registry))
        else:
            with_history = _wants_history(query)
            status = describe(self._router, draining=self.closing, history=with_history)
            request.respond(200, msgspec.json.encode(status), _NO_STORE)

    def _stream(self, request: Request, grant: Grant | None) -> None:
        if self.closing or len(self._streams) >= MAX_STREAMS:
            message = "shutting down" if self.closing else f"more than {MAX_STREAMS} streams of events"
            request.respond(503, plain_error("overloaded", message), b"retry-after: 1\r\n")
        elif request.verb == b"HEAD":
            request.respond_with(EVENT_STREAM, b"")
        elif request.stream(EVENT_STREAM):
            if not self._is_told:
                self._is_told = True
                self._router.each_second.append(self._send_events)
            self._streams.append((request, grant))
            request.send_piece(b"retry: %d\n\n" % RETRY_MS + self._event())

    def _send_events(self) -> None:
        if not self._streams:
            return
        event = self._event()
        self._streams = [each for each in self._streams if _may_go_on(*each) and each[0].send_piece(event)]

    def _event(self) -> bytes:
        status = describe(self._router, draining=self.closing)
        history = self._router.telemetry.history
        status["second"] = seconds_row(history[-1]) if history else None
        return b"event: status\ndata: %b\n\n" % msgspec.json.encode(status)


def _wants_history(query: bytes) -> bool:
    """Raises InvalidParams."""
    pairs = [pair.partition(b"=") for pair in query.split(b"&")]
    given = [value for name, _, value in pairs if name == b"history"]
    if given not in ([], [b"1"]):
        raise InvalidParams(field="history", detail="expected 1, once, or not at all")
    return bool(given)


def _may_go_on(request: Request, grant: Grant | None) -> bool:
    """Whether the key is still good for it; one that was revoked ends the stream."""
    if grant is None:
        return True
    try:
        grant.check(time.time())
        if grant.may_watch:
            return True
    except Unauthorized:
        pass
    request.end_stream()
    return False
