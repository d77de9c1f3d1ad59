"""JSON-RPC over TCP from the rater itself, without a balancer.

Non-blocking sockets in the work loop's own poller around the sans-IO `common.jsonrpc.Session`.
Every buffer is bounded: a connection with too many unanswered calls, or whose client does not read,
is not read from until that is over; one that stays unread for too long is closed.
"""

from __future__ import annotations

import logging
import socket
from itertools import count
from typing import Final

import zmq

from common.jsonrpc import Session
from rater.service import Job, Outcome

log = logging.getLogger(__name__)

READ_BYTES: Final = 64 * 1024
"""One read of one connection in one turn, so that no connection starves the others."""

MAX_CONNECTIONS: Final = 1_000
"""A rater serves a switch or two directly; crowds belong before a balancer."""

MAX_IN_FLIGHT: Final = 1_000
"""Unanswered calls of one connection, after which it is not read until some are answered."""

MAX_UNSENT_BYTES: Final = 1024 * 1024
"""Answers waiting for a client to read them, after which its requests are not read either."""

UNREAD_TIMEOUT_US: Final = 30_000_000
"""A client that has read nothing for this long is gone or broken."""


class Connection:
    """One client."""

    def __init__(self, sock: socket.socket, token_prefix: str) -> None:
        self.socket = sock
        self.fd = sock.fileno()
        self.token_prefix = token_prefix
        self.session = Session()
        self.unsent = bytearray()
        self.ended = False
        """The client sends no more: answer what is in flight, then close."""
        self.stuck_since_us: int | None = None
        self.events: int = zmq.POLLIN

    def reply(self, seq: int, outcome: Outcome) -> None:
        if outcome.code:
            self.session.fail(seq, outcome.body)
        else:
            self.session.answer(seq, outcome.body)

    @property
    def may_read(self) -> bool:
        return (
            not self.ended
            and not self.session.closing
            and self.session.in_flight < MAX_IN_FLIGHT
            and len(self.unsent) < MAX_UNSENT_BYTES
        )

    @property
    def done(self) -> bool:
        """Nothing more can come of it."""
        over = self.ended or self.session.closing
        return over and not self.session.in_flight and not self.unsent


class DirectServer:
    """The rater's own listening port; `open` binds it, the work loop drives the rest."""

    def __init__(self, host: str, port: int, name: str, deadline_ms: int) -> None:
        self._address = (host, port)
        self._name = name
        self._deadline_us = deadline_ms * 1000
        self._connections: dict[int, Connection] = {}
        self._numbers = count(1)
        self._listener: socket.socket | None = None
        self._poller: zmq.Poller | None = None
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server(self._address, family=family, backlog=1024)
        self._listener.setblocking(False)

    @property
    def port(self) -> int:
        """The port it listens on, also where 0 was asked for."""
        assert self._listener is not None
        return int(self._listener.getsockname()[1])

    def open(self, poller: zmq.Poller) -> None:
        self._poller = poller
        assert self._listener is not None
        poller.register(self._listener.fileno(), zmq.POLLIN)

    @property
    def idle(self) -> bool:
        """No call is unanswered and no answer unsent."""
        return not any(c.session.in_flight or c.unsent for c in self._connections.values())

    def handle(self, ready: dict[object, int], now_us: int) -> list[Job]:
        """Accept, read what has come, and return the calls in it."""
        if self._listener is not None and self._listener.fileno() in ready:
            self._accept()
        jobs: list[Job] = []
        for connection in list(self._connections.values()):
            if ready.get(connection.fd, 0) & (zmq.POLLIN | zmq.POLLERR) and connection.may_read:
                jobs += self._read(connection, now_us + self._deadline_us)
        return jobs

    def flush(self, now_us: int) -> None:
        """Send the answers of this turn, one write for each connection."""
        for connection in list(self._connections.values()):
            self._flush_one(connection, now_us)

    def stop_accepting(self) -> None:
        """Close the port and read no more; answers still go out."""
        if self._listener is not None:
            assert self._poller is not None
            self._poller.unregister(self._listener.fileno())
            self._listener.close()
            self._listener = None
        for connection in self._connections.values():
            connection.ended = True

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._connections.values()):
            self._drop(connection)

    def _accept(self) -> None:
        assert self._listener is not None
        assert self._poller is not None
        while True:
            try:
                sock, _peer = self._listener.accept()
            except OSError:  # nobody is waiting, or no descriptor is left: the next turn tries again
                return
            if len(self._connections) >= MAX_CONNECTIONS:
                log.warning("connection refused: %s are open", MAX_CONNECTIONS)
                sock.close()
                continue
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(sock, f"{self._name}-{next(self._numbers)}")
            self._connections[connection.fd] = connection
            self._poller.register(connection.fd, zmq.POLLIN)

    def _read(self, connection: Connection, deadline_us: int) -> list[Job]:
        try:
            data = connection.socket.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            self._drop(connection)
            return []
        if not data:
            connection.ended = True
            connection.session.feed_eof()
            return []
        return [
            Job(
                connection,
                call.slot,
                call.method,
                call.params,
                "",
                f"{connection.token_prefix}-{call.slot}",
                deadline_us,
            )
            for call in connection.session.feed(data)
        ]

    def _flush_one(self, connection: Connection, now_us: int) -> None:
        connection.unsent += connection.session.take_output()
        if connection.unsent:
            try:
                sent = connection.socket.send(connection.unsent)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._drop(connection)
                return
            del connection.unsent[:sent]
            if sent or not connection.unsent:
                connection.stuck_since_us = None
            elif connection.stuck_since_us is None:
                connection.stuck_since_us = now_us
            elif now_us - connection.stuck_since_us > UNREAD_TIMEOUT_US:
                log.warning("connection closed: its client has read nothing for %s µs", UNREAD_TIMEOUT_US)
                self._drop(connection)
                return
        if connection.done:
            self._drop(connection)
            return
        self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        """Poll for just what can be done now."""
        assert self._poller is not None
        events = (zmq.POLLIN if connection.may_read else 0) | (zmq.POLLOUT if connection.unsent else 0)
        if events != connection.events:
            connection.events = events
            if events:
                self._poller.register(connection.fd, events)
            else:
                self._poller.unregister(connection.fd)

    def _drop(self, connection: Connection) -> None:
        assert self._poller is not None
        if self._connections.pop(connection.fd, None) is None:
            return
        if connection.events:
            self._poller.unregister(connection.fd)
        connection.socket.close()
