"""What the two halves of the HTTP gateway hand each other: a request that is here in full, and its response.

`reader` makes requests of bytes, `connection` has them answered in order, by `app`, each once.
"""

from __future__ import annotations

import http
from email.utils import formatdate
from typing import Final, NamedTuple, Protocol

import msgspec

Headers = list[tuple[bytes, bytes]]

STATUS_LINES: Final = {
    int(status): b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in http.HTTPStatus
}

_LENGTHLESS: Final = (http.HTTPStatus.NO_CONTENT, http.HTTPStatus.NOT_MODIFIED)

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


JSON: Final = b"application/json"


class Responder(Protocol):
    @property
    def is_local(self) -> bool:
        """The client is on this host."""

    def respond(
        self, request: Request, status: int, body: bytes, more: bytes, kind: bytes = JSON
    ) -> None: ...

    def stream(self, request: Request, kind: bytes) -> bool: ...

    def send_piece(self, request: Request, piece: bytes) -> bool: ...

    def end_stream(self, request: Request) -> None: ...


class Request(msgspec.Struct, eq=False):
    """One request; whoever gets it calls `respond` once, now or later."""

    responder: Responder
    verb: bytes
    target: bytes
    """As it was sent: path and query, mostly."""
    headers: Headers
    """Names as they were sent, in any case."""
    keep_alive: bool = True
    """The connection takes further requests after this one."""
    body: bytes = b""
    id: bytes = b""
    """What the request is called in logs and in the journal, once that is known."""

    def values(self, name: bytes) -> list[bytes]:
        """Of all headers of that name, which is in lower case."""
        return [value for key, value in self.headers if key.lower() == name]

    def respond(self, status: int, body: bytes = b"", more: bytes = b"") -> None:
        """`body` is JSON, `more` are lines of headers, each with its end."""
        self.responder.respond(self, status, body, more)

    def respond_with(self, kind: bytes, body: bytes, more: bytes = b"") -> None:
        """As `respond`, with something else than JSON, named by its media type."""
        self.responder.respond(self, 200, body, more, kind)

    def stream(self, kind: bytes) -> bool:
        """Begin a response that goes on; whether the client is there. It is the last of its connection."""
        return self.responder.stream(self, kind)

    def send_piece(self, piece: bytes) -> bool:
        """Send some of a stream, or nothing to a client that does not read; whether it is still there."""
        return self.responder.send_piece(self, piece)

    def end_stream(self) -> None:
        self.responder.end_stream(self)


class Refusal(NamedTuple):
    """The response to what is no request."""

    status: int
    name: str
    body: bytes
    more: bytes = b""


def encode_response(
    status: int, date: bytes, body: bytes, more: bytes, bare: bool, close: bool, kind: bytes = JSON
) -> bytes:
    """The bytes of a response; a `bare` one, to HEAD, lacks the body that its headers describe."""
    if close:
        more += b"connection: close\r\n"
    if not body:  # a 204 must not have a length, and that of a 304 would be the length of what is known
        length = b"" if status in _LENGTHLESS else b"content-length: 0\r\n"
        return b"%bdate: %b\r\n%b%b\r\n" % (STATUS_LINES[status], date, length, more)
    return b"%bdate: %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n%b" % (
        STATUS_LINES[status],
        date,
        kind,
        len(body),
        more,
        b"" if bare else body,
    )


def encode_stream_head(date: bytes, kind: bytes) -> bytes:
    """The head of a response whose end is that of the connection, as its length is not known."""
    return (
        b"%bdate: %b\r\ncontent-type: %b\r\ncache-control: no-store\r\nx-accel-buffering: no\r\n"
        b"connection: close\r\n\r\n" % (STATUS_LINES[200], date, kind)
    )


def encode_date(now_s: float) -> bytes:
    """The value of the header Date. Source: RFC 9110 §5.6.7."""
    return formatdate(now_s, usegmt=True).encode()


def error_body(body: bytes) -> bytes:
    """The body of a response for the JSON object of an error."""
    return b'{"error":' + body + b"}"


def plain_error(name: str, message: str) -> bytes:
    """The body for what HTTP alone knows: not among the errors of the API, so it has no code of theirs."""
    return error_body(msgspec.json.encode({"code": 0, "name": name, "message": message, "data": {}}))
