"""From bytes to HTTP requests, each handed over once it is here in full: no I/O, no clock.

    bytes ──feed──▶ parser ──head──▶ `arriving` ──body, end──▶ `owner.take`

What a client sends may cost so much and no more: the bytes of a head, of a body, and of what is neither
(trailers, sizes and extensions of chunks). What goes beyond, and what is no HTTP, is refused once, by
`owner.refuse`; nothing is taken after that, nor after a request that is the last one by its own word.

The parser is llhttp, strict: it refuses bare line feeds, folded headers, two lengths, a length beside
`Transfer-Encoding`, and whatever else two programs may read differently. Source: RFC 9112.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, Protocol

import httptools

from balancer.http.message import Headers, Refusal, Request, Responder, error_body, plain_error
from common.errors import MessageTooLarge, encode_error

MAX_HEAD_BYTES: Final = 32 * 1024
"""URL and headers. The longest meaningful URL has under 8 KB, proxies add some headers."""

MAX_BODY_BYTES: Final = 1024 * 1024
"""As for one message of JSON-RPC over TCP. The default of a setting, and its upper bound."""

PIECE_BYTES: Final = 4096
"""What is to be fed at a time. It holds some 200 of the shortest requests: so many may wait parsed, and so
many are answered before other connections get their turn."""

_ANNOUNCE_BODY: Final = frozenset({b"content-length", b"transfer-encoding"})
_OVERHEAD_BYTES: Final = 4
"""Of a header, beside its name and its value: the colon, a space and the line's end."""


class Owner(Responder, Protocol):
    """Who wants the requests, and answers them."""

    def take(self, request: Request) -> None: ...

    def refuse(self, refusal: Refusal) -> None:
        """Nothing more is taken; this is to be said, after the responses that are due."""

    def expect(self) -> None:
        """The client wants to be told to send the body of the request that is arriving."""


class Awaits(Enum):
    """What the client has to send next."""

    FIRST = "the first request"
    NEXT = "a further request, if it likes"
    HEAD = "the rest of a head"
    BODY = "the rest of a body"


class RequestReader:
    """Its `on_…` methods are the parser's."""

    __slots__ = (
        "_body",
        "_headers",
        "_max_body_bytes",
        "_owner",
        "_parser",
        "_stray_bytes",
        "_target",
        "arriving",
        "closed",
    )

    def __init__(self, owner: Owner, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self.arriving: Request | None = None
        """Its head is here, its body not yet."""
        self.closed = False
        """Nothing more is taken."""
        self._owner = owner
        self._max_body_bytes = max_body_bytes
        self._parser = httptools.HttpRequestParser(self)
        self._target: bytes | None = None
        """None before the first request."""
        self._headers: Headers | None = None
        """Of the head that is arriving; None otherwise."""
        self._body: bytearray | None = None
        self._stray_bytes = 0
        """Fed since the last byte of a body or end of a head or request; the parser may hold them."""

    @property
    def awaits(self) -> Awaits:
        if self.arriving is not None:
            return Awaits.BODY
        if self._headers is not None:
            return Awaits.HEAD
        return Awaits.FIRST if self._target is None else Awaits.NEXT

    def feed(self, data: bytes | memoryview) -> None:
        """At most PIECE_BYTES. Raises only for a defect of this program."""
        if self.closed:
            return
        before = self.arriving
        self._stray_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:  # is declined: what follows is HTTP still
            self.feed(data[upgrade.args[0] :])
            return
        except httptools.HttpParserCallbackError:
            raise
        except httptools.HttpParserError:
            self._refuse(400, "bad_http", "not a valid HTTP request")
        if self._stray_bytes > MAX_HEAD_BYTES + PIECE_BYTES:
            self._refuse_head()
        elif self.arriving is not None and self.arriving is not before:
            self._await_body(self.arriving)

    def close(self) -> None:
        """Take nothing more, and let go of the parser, which holds this object."""
        self.closed = True
        self.arriving = self._headers = self._body = None
        del self._parser

    # --- called by the parser ----------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._target = self._target + url if self._target else url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._headers is not None:  # else it is a trailer, and those mean nothing here
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        target, headers, parser = self._target or b"", self._headers or [], self._parser
        self._headers = None
        if self._stray_bytes > PIECE_BYTES and _head_bytes(target, headers) > MAX_HEAD_BYTES:
            self._refuse_head()
            return
        self._stray_bytes = 0
        if parser.should_upgrade() and any(name.lower() in _ANNOUNCE_BODY for name, _ in headers):
            # The parser would take the body for what follows the request.
            self._refuse(400, "bad_http", "a request for an upgrade, which is declined, can't have a body")
            return
        keep_alive = parser.should_keep_alive() and parser.get_http_version() == "1.1"
        self.arriving = Request(self._owner, parser.get_method(), target, headers, keep_alive)

    def on_chunk_header(self) -> None:
        if self.arriving is not None and self._body is None:
            codings = [coding.lower() for coding in self.arriving.values(b"transfer-encoding")]
            if codings != [b"chunked"]:
                self._refuse(400, "bad_http", "a body may be chunked, and not encoded in any other way")

    def on_body(self, data: bytes) -> None:
        self._stray_bytes = 0
        if self.closed:
            return
        if self._body is None:
            self._body = bytearray()
        self._body += data
        if len(self._body) > self._max_body_bytes:
            self._refuse_body()

    def on_message_complete(self) -> None:
        request, self.arriving = self.arriving, None
        if self.closed or request is None:
            return
        self._stray_bytes = 0
        if self._body is not None:
            request.body, self._body = bytes(self._body), None
        self._owner.take(request)
        self.closed = not request.keep_alive

    # --- what is too much --------------------------------------------------------------------

    def _await_body(self, request: Request) -> None:
        if any(int(length) > self._max_body_bytes for length in request.values(b"content-length")):
            self._refuse_body()
            return
        expected = [value.lower() for value in request.values(b"expect")]
        if b"100-continue" in expected and self._parser.get_http_version() != "1.0":
            self._owner.expect()

    def _refuse_head(self) -> None:
        self._refuse(431, "head_too_large", f"URL and headers exceed {MAX_HEAD_BYTES} bytes")

    def _refuse(self, status: int, name: str, message: str) -> None:
        self._end(Refusal(status, name, plain_error(name, message)))

    def _refuse_body(self) -> None:
        error = MessageTooLarge(limit_bytes=self._max_body_bytes)
        self._end(Refusal(error.http_status, error.name, error_body(encode_error(error))))

    def _end(self, refusal: Refusal) -> None:
        self.arriving = self._headers = self._body = None
        if not self.closed:
            self.closed = True
            self._owner.refuse(refusal)


def _head_bytes(target: bytes, headers: Headers) -> int:
    return len(target) + sum(len(name) + len(value) + _OVERHEAD_BYTES for name, value in headers)
