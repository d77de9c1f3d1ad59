"""What the Python client is made of: a call under way, one connection, and when to try for the next.

A link is a socket that never blocks, and what is still to be sent on it. All but `Link.wait` is done
under the client's lock (`common.client`).
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from common.errors import RatelError
from common.jsonrpc_replies import Reply, ReplyReader

if TYPE_CHECKING:
    from common.client import JSONClient

_RECEIVE_BYTES: Final = 256 * 1024
"""Taken from the socket at once: about as much as the system keeps for one."""
FIRST_BACKOFF_S: Final = 0.05
"""Long enough for a dying server to be gone: a connection made at once would land in its backlog."""
LONGEST_BACKOFF_S: Final = 0.5
"""A host that is down is not hammered, and one that is back is found by calls of short timeouts too."""


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
    """When to connect: at once at first, then with pauses that double until the server has answered.

    A connection alone proves nothing: what accepts it may be about to die.
    """

    def __init__(self) -> None:
        self.at = -math.inf
        self._pause_s = FIRST_BACKOFF_S

    def failed(self, now: float) -> None:
        """No connection came about, or one was lost with calls in flight."""
        self.at = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_BACKOFF_S)

    def worked(self) -> None:
        self._pause_s = FIRST_BACKOFF_S


class Link:
    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connected
        self._replies = ReplyReader()
        self.outbox = bytearray()
        self.waiters = 0
        self.lost = False

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
