"""One connection of the client that waits in threads: a socket that never blocks.

All but `Link.wait` is done under the client's lock (`common.client`).
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Final

from common.addresses import Address
from common.client_parts import Conversation
from common.rpc.jsonrpc_replies import Reply
from common.tls import ClientTls, TlsError, TlsRefused, explain

_RECEIVE_BYTES: Final = 64 * 1024
"""Taken from the socket at once. A buffer of 256 KiB is mapped anew for each read: 24 µs more."""


class Link(Conversation):
    def __init__(self, connected: socket.socket, api_key: str | None = None) -> None:
        super().__init__(api_key)
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connected
        self.waiters = 0

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
        return self.hear(data)

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
