"""What the Python client is made of: servers, a call under way, one connection, when to try which next.

A link is a socket that never blocks, and what is still to be sent on it. All but `Link.wait` is done
under the client's lock (`common.client`).
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import select
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from common.addresses import Address, parse_address
from common.errors import RatelError, Unauthorized
from common.jsonrpc_replies import Reply, ReplyReader, encode_call
from common.methods import AUTHENTICATE, SERVICE
from common.tls import ClientTls, TlsError, explain

if TYPE_CHECKING:
    from common.client import JSONClient

_RECEIVE_BYTES: Final = 64 * 1024
"""Taken from the socket at once. A buffer of 256 KiB is mapped anew for each read: 24 µs more."""
FIRST_BACKOFF_S: Final = 0.05
"""Long enough for a dying server to be gone: a connection made at once would land in its backlog."""
LONGEST_BACKOFF_S: Final = 0.5
"""A host that is down is not hammered, and one that is back is found by calls of short timeouts too."""

PROBE_SHARE: Final = 1 / 3
"""Of the client's patience, before it asks whether the server is there; the rest is for the answer."""
PROBE: Final = encode_call(0, "Responder.AreYouThere", {})
"""Answered with method_not_found by the server itself. No call has the id 0, so the answer is dropped."""

_MAX_KEY_FILE_BYTES: Final = 1024
"""An API key has 82 characters."""
clients: Final[WeakSet[JSONClient]] = WeakSet()
"""All there are, for a fork."""


def _leave_all_to_parent() -> None:
    for client in list(clients):
        client._leave_to_parent()


os.register_at_fork(after_in_child=_leave_all_to_parent)

ServerAddress = tuple[str, int] | str


def parse_servers(given: ServerAddress | Sequence[ServerAddress]) -> tuple[Address, ...]:
    """The addresses in order. Raises ValueError."""
    if isinstance(given, str):
        return tuple(parse_address(text.strip()) for text in given.split(","))
    if len(given) == 2 and isinstance(given[0], str) and isinstance(given[1], int):
        return (Address(given[0], given[1]),)
    servers = tuple(server for one in given for server in parse_servers(one))  # type: ignore[arg-type]
    if not servers:
        raise ValueError("expected at least one address")
    return servers


def request_id_of(fields: dict[str, Any], *, add: bool) -> str:
    """The descriptor's RequestId, under any spelling; a fresh one may be added if it has none.

    Random as a whole: a prefix or a counter would be the same in all children of a fork.
    """
    for field, value in fields.items():
        if str(field).casefold() == "requestid":
            return str(value or "")
    if not add:
        return ""
    request_id = fields["RequestId"] = secrets.token_hex(16)
    return request_id


class Pending:
    """A call under way; see `JSONClient.submit`."""

    __slots__ = (
        "_client",
        "_deadline",
        "_done",
        "_id",
        "_message",
        "_outcome",
        "_repeatable",
        "_sent",
        "_started",
        "request_id",
    )

    def __init__(
        self,
        client: JSONClient,
        call_id: int,
        message: bytes,
        deadline: float,
        repeatable: bool,
        request_id: str,
    ) -> None:
        self.request_id = request_id
        """Under which a mutation was sent: with the same one, it may be made again. Empty for reads."""
        self._client = client
        self._started = time.monotonic()
        self._deadline = deadline
        """From then on it is not sent again, unless someone waits for it longer."""
        self._id = call_id
        self._message = message
        self._repeatable = repeatable
        self._sent = False
        self._done = False
        self._outcome: Any | RatelError = None

    @property
    def done(self) -> bool:
        """Whether the reply has been read: someone has to wait for a reply for any to be read."""
        return self._done

    def result(self, timeout_s: float | None = None) -> Any:
        """The result, waited for no longer than `timeout_s` (default: the client's), or its error.

        After a DeadlineExceeded the call is abandoned; asking again raises the same.
        """
        return self._client._result(self, self._client._deadline(timeout_s))

    def _settle(self, outcome: Any | RatelError) -> None:
        self._outcome = outcome
        self._done = True


class Redial:
    """Which server to connect to, and when: after a failure the next one, at once unless it failed itself
    lately. The pause before a server is tried again doubles until it has answered.

    A connection alone proves nothing: what accepts it may be about to die.
    """

    def __init__(self, servers: int = 1) -> None:
        self.turn = 0
        self._at = [-math.inf] * servers
        self._pauses_s = [FIRST_BACKOFF_S] * servers

    @property
    def at(self) -> float:
        return self._at[self.turn]

    def failed(self, now: float) -> None:
        """No connection came about, or one was lost with calls in flight."""
        pause_s = self._pauses_s[self.turn]
        self._at[self.turn] = now + pause_s
        self._pauses_s[self.turn] = min(2 * pause_s, LONGEST_BACKOFF_S)
        self.turn = (self.turn + 1) % len(self._at)

    def worked(self) -> None:
        self._pauses_s[self.turn] = FIRST_BACKOFF_S


AUTHENTICATE_ID: Final = -1
"""Of the call that says who the client is; no other call has it."""


class ApiKey:
    """The key that a client says when it connects. A file is read for each connection, so that it may change
    meanwhile."""

    def __init__(self, text: str | None, path: str | os.PathLike[str] | None) -> None:
        if text is not None and path is not None:
            raise ValueError("give api_key or api_key_file, not both")
        self._text = text
        self._path = path

    def read(self) -> str | None:
        """None where there is none to say. Raises Unauthorized when the file can't be read."""
        if self._path is None:
            return self._text
        try:
            with open(self._path, encoding="ascii") as file:
                return file.read(_MAX_KEY_FILE_BYTES).strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it holds no API key"
            raise Unauthorized(
                detail=f"can't read the API key in {os.fspath(self._path)}: {reason}"
            ) from None


def encode_authenticate(key: str) -> bytes:
    return encode_call(AUTHENTICATE_ID, f"{SERVICE}.{AUTHENTICATE.name}", {"ApiKey": key})


class Link:
    def __init__(self, connected: socket.socket, api_key: str | None = None) -> None:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connected
        self._replies = ReplyReader()
        self.api_key = api_key
        """By which it came in."""
        self.outbox = bytearray()
        self.waiters = 0
        self.lost = False
        self.owed = 0
        """Replies that are still to come, wanted or not."""
        self._heard_at = 0.0
        """When something came, or was first owed."""
        self._probed_at: float | None = None
        if api_key is not None:
            self.take(encode_authenticate(api_key))

    def take(self, message: bytes) -> None:
        """To be sent: one call."""
        if not self.owed:
            self._heard_at = time.monotonic()
        self.owed += 1
        self.outbox += message

    def doubt_at(self, patience_s: float) -> float:
        """When the silence has lasted long enough to ask whether the server is there, or to leave it."""
        if not self.owed:
            return math.inf
        if self._probed_at is None:
            return self._heard_at + patience_s * PROBE_SHARE
        return self._probed_at + patience_s * (1 - PROBE_SHARE)

    def probe(self) -> bool:
        """Asks whether the server is there, unless that was asked in vain."""
        if self._probed_at is not None:
            return False
        self._probed_at = time.monotonic()
        self.take(PROBE)
        return True

    def wait(self, events: int, timeout_s: float) -> None:
        poll = select.poll()
        poll.register(self._socket, events)
        poll.poll(math.ceil(timeout_s * 1000))

    def send(self) -> None:
        """As much of the outbox as the socket takes now. Raises OSError."""
        with contextlib.suppress(BlockingIOError):
            while self.outbox:
                del self.outbox[: self._socket.send(self.outbox)]

    def receive(self) -> Iterator[Reply]:
        """The replies that have come by now. Raises OSError or, after some, NotAReply."""
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return iter(())
        if not data:
            raise ConnectionResetError("closed by the server")
        self._heard_at, self._probed_at = time.monotonic(), None
        return self._replies.feed(data)

    def abandon(self) -> None:
        """Wakes who waits for it; the last of them closes it, so that its number isn't reused before."""
        if not self.lost:
            self.lost = True
            with contextlib.suppress(OSError):  # the other side was quicker
                self._socket.shutdown(socket.SHUT_RDWR)
        if not self.waiters:
            self._socket.close()

    def leave_to_parent(self) -> None:
        """After a fork: closes this process's copy of the socket. A shutdown would be the parent's, too."""
        self.lost = True
        self._socket.close()


class TlsLink(Link):
    """A link whose socket has shaken hands. What OpenSSL wants to wait for would block."""

    _socket: ssl.SSLSocket

    def send(self) -> None:
        try:
            with contextlib.suppress(ssl.SSLWantWriteError, ssl.SSLWantReadError):
                super().send()
        except ssl.SSLError as error:
            raise TlsRefused(f"TLS: {explain(error)}") from error

    def receive(self) -> Iterator[Reply]:
        try:
            return super().receive()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return iter(())
        except ssl.SSLError as error:
            raise TlsRefused(f"TLS: {explain(error)}") from error


class TlsRefused(OSError):
    """TLS went wrong, at the handshake or as the first thing after it: with TLS 1.3 a client has shaken hands
    before the server has seen its certificate."""


def open_link(address: Address, timeout_s: float, tls: ClientTls | None, api_key: str | None = None) -> Link:
    """Connect, and shake hands where TLS is spoken, within `timeout_s`. Raises OSError."""
    give_up_s = time.monotonic() + timeout_s
    connected = socket.create_connection(address, timeout=timeout_s)
    if tls is None:
        return Link(connected, api_key)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(connected.close)
        try:
            # Made anew for each connection: the files may have been renewed.
            context, host = tls.context(), tls.server_name or address.host
            wrapped = context.wrap_socket(connected, server_hostname=host, do_handshake_on_connect=False)
            on_failure.callback(wrapped.close)
            wrapped.setblocking(False)
            _shake(wrapped, give_up_s)
        except (TlsError, ssl.SSLError) as error:
            raise TlsRefused(f"TLS: {explain(error)}") from error
        on_failure.pop_all()
    return TlsLink(wrapped, api_key)


def _shake(wrapped: ssl.SSLSocket, give_up_s: float) -> None:
    while True:
        poll = select.poll()
        try:
            wrapped.do_handshake()
        except ssl.SSLWantReadError:
            poll.register(wrapped, select.POLLIN)
        except ssl.SSLWantWriteError:
            poll.register(wrapped, select.POLLOUT)
        else:
            return
        left_s = give_up_s - time.monotonic()
        if left_s <= 0 or not poll.poll(math.ceil(left_s * 1000)):
            raise TimeoutError("timed out during the TLS handshake")
