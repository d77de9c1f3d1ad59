"""One connection of the Python client: a socket that never blocks, and what is still to be sent on it.

All but `Link.wait` is done under the client's lock (`common.client`).
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
from collections.abc import Iterator
from typing import Final

from common.jsonrpc_replies import Reply, ReplyReader

_RECEIVE_BYTES: Final = 256 * 1024
"""Taken from the socket at once: about as much as the system keeps for one."""


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
