"""JSON-RPC over TCP from the rater itself, without a balancer.

Non-blocking sockets in the work loop's own poller around the sans-IO `common.rpc.jsonrpc.Session`.
Every buffer is bounded (`rater.direct_connection`): a connection with too many unanswered calls, or
whose client does not read, is not read from until that is over; one that stays unread for too long is
closed, and so is one whose client does not finish a message.

One turn of the work loop takes a bounded number of messages, those of the connections that have
waited longest. What a read leaves in its session (`Session.more`) is taken in later turns: while
there is such, `busy` is true and the loop is not to wait in its poll.

Where this side ends a connection, EOF follows the last answers, and what still comes in is read and
dropped for a moment: closing with unread input would send a reset, which can overtake the answers.
"""

from __future__ import annotations

import logging
import secrets
import socket
from itertools import count
from typing import Final

import zmq

from common.limits import raise_file_limit
from common.logs import Throttle
from common.rpc.jsonrpc import Call
from common.security.key_file import LOOK_EVERY_S, WatchedKeyring
from common.security.scopes import unbind
from rater.direct_connection import Connection
from rater.work.jobs import Job

log = logging.getLogger(__name__)

READ_BYTES: Final = 64 * 1024
"""One read of one connection in one turn, so that no connection starves the others."""

MESSAGES_PER_TURN: Final = 2_048
"""Of all connections, members of batches among them: some 15 ms, then the loop's other duties follow."""

ACCEPTS_PER_TURN: Final = 256

MAX_CONNECTIONS: Final = 1_000
"""A rater serves a switch or two directly; crowds belong before a balancer."""

RESERVED_FILES: Final = 64
"""Of the limit of open files: for the store, the balancers, the poller and the logs."""

STUCK_US: Final = 30_000_000
"""A client that has read nothing, or not finished a message, for this long is gone or broken."""

LINGER_US: Final = 1_000_000
"""How long input is dropped after our EOF, for the client to see the answers and close."""

ACCEPT_AGAIN_US: Final = 100_000
"""Pause in accepting when no file is left. The port stays ready to be read: polling would spin."""

LOOK_EVERY_US: Final = round(LOOK_EVERY_S * 1_000_000)
"""At the file of API keys. The work loop turns once in a heartbeat at least, which is as often."""

WARN_EVERY_S: Final = 5.0


def _bound_job(connection: Connection, call: Call, deadline_us: int) -> Job:
    """For the tenants of the client's key."""
    method, tenants = unbind(call.method.name)
    return Job(connection, call.slot, method, call.params, "", deadline_us, tenants=tenants)


class DirectServer:
    """The rater's own listening port; `open` binds it, the work loop drives the rest."""

    def __init__(
        self, host: str, port: int, name: str, deadline_ms: int, keys: WatchedKeyring | None = None
    ) -> None:
        """Without `keys` everybody may do everything."""
        self._name = name
        self._keys = keys
        self._look_at_us = 0
        self._deadline_us = deadline_ms * 1000
        self._life = secrets.token_hex(8)
        """In every token: a rater of the same name that ran before has used the same numbers."""
        self._numbers = count(1)
        self._connections: dict[int, Connection] = {}
        """The one that was served last is last."""
        self._max_connections = max(1, min(MAX_CONNECTIONS, raise_file_limit() - RESERVED_FILES))
        self._refused = Throttle(WARN_EVERY_S)
        self._no_files = Throttle(WARN_EVERY_S)
        self._accept_again_at_us: int | None = None
        """Set while the listener is out of the poller."""
        self._poller: zmq.Poller | None = None
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener: socket.socket | None = socket.create_server((host, port), family=family, backlog=1024)
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
        """No call is unanswered, no answer unsent and no end of a connection pending."""
        return all(c.idle and c.linger_until_us is None for c in self._connections.values())

    @property
    def busy(self) -> bool:
        """`handle` has something to do, whether the poller tells of anything or not."""
        return any(c.may_go_on for c in self._connections.values())

    def handle(self, ready: dict[object, int], now_us: int) -> list[Job]:
        """Read what has come, return the calls in it, and accept."""
        jobs: list[Job] = []
        messages = 0
        for connection in list(self._connections.values()):
            readable = ready.get(connection.fd, 0) & (zmq.POLLIN | zmq.POLLERR)
            if connection.linger_until_us is not None:
                if readable:
                    self._read(connection, now_us)
            elif messages < MESSAGES_PER_TURN and (
                connection.may_go_on or (readable and connection.may_read)
            ):
                messages -= connection.session.found
                jobs += self._take(connection, now_us)
                messages += connection.session.found
        self._accept_if(ready, now_us)
        return jobs

    def flush(self, now_us: int) -> None:
        """Send the answers of this turn, one write for each connection."""
        if self._keys is not None and now_us >= self._look_at_us:
            self._look_at_us = now_us + LOOK_EVERY_US
            self._keys.look()
        for connection in list(self._connections.values()):
            self._flush_one(connection, now_us)

    def stop_accepting(self) -> None:
        """Close the port and read no more; answers still go out."""
        if self._listener is not None:
            assert self._poller is not None
            if self._accept_again_at_us is None:
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

    # --- accepting ---------------------------------------------------------------------------

    def _accept_if(self, ready: dict[object, int], now_us: int) -> None:
        if self._listener is None:
            return
        if self._accept_again_at_us is None:
            if self._listener.fileno() in ready:
                self._accept(self._listener, now_us)
        elif now_us >= self._accept_again_at_us:
            self._watch_listener()

    def _accept(self, listener: socket.socket, now_us: int) -> None:
        for accepted in range(ACCEPTS_PER_TURN):
            full = len(self._connections) >= self._max_connections
            if full and accepted:
                return  # the next turn sees first whether some have ended meanwhile
            try:
                sock, _peer = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause_accepting(listener, error, now_us)
                return
            if full:
                sock.close()
                held = self._refused.passes(now_us / 1_000_000)
                if held is not None:
                    log.warning(
                        "rater=%s connection refused limit=%s held_back=%s",
                        self._name,
                        self._max_connections,
                        held,
                    )
                continue
            self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        assert self._poller is not None
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        keyring = self._keys.keyring if self._keys is not None else None
        connection = Connection(sock, f"{self._life}-{next(self._numbers)}", keyring)
        self._connections[connection.fd] = connection
        self._poller.register(connection.fd, zmq.POLLIN)

    def _pause_accepting(self, listener: socket.socket, error: OSError, now_us: int) -> None:
        assert self._poller is not None
        self._poller.unregister(listener.fileno())
        self._accept_again_at_us = now_us + ACCEPT_AGAIN_US
        held = self._no_files.passes(now_us / 1_000_000)
        if held is not None:
            log.warning("rater=%s can't accept: %s held_back=%s", self._name, error.strerror, held)

    def _watch_listener(self) -> None:
        if self._listener is not None and self._accept_again_at_us is not None:
            assert self._poller is not None
            self._accept_again_at_us = None
            self._poller.register(self._listener.fileno(), zmq.POLLIN)

    # --- one connection ----------------------------------------------------------------------

    def _take(self, connection: Connection, now_us: int) -> list[Job]:
        """The next calls of a connection, which then is the last in turn."""
        self._connections[connection.fd] = self._connections.pop(connection.fd)
        session = connection.session
        data = b"" if session.more else self._read(connection, now_us)
        if data is None:
            return []
        found_before = session.found
        calls = connection.visitor.admit(session.feed(data))
        if not session.unfinished:
            connection.unfinished_since_us = None
        elif connection.unfinished_since_us is None or session.found != found_before:
            connection.unfinished_since_us = now_us
        deadline_us = now_us + self._deadline_us
        if self._keys is None:
            return [Job(connection, slot, method, params, "", deadline_us) for slot, method, params in calls]
        return [_bound_job(connection, call, deadline_us) for call in calls]

    def _read(self, connection: Connection, now_us: int) -> bytes | None:
        """What has come, or None: it is nothing, or the end."""
        try:
            data = connection.socket.recv(READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            self._drop(connection)
            return None
        if data:
            return data
        connection.eof = connection.ended = True
        connection.session.feed_eof()
        if connection.done:  # at once, so that it makes room for who comes now
            self._flush_one(connection, now_us)
        return None

    def _flush_one(self, connection: Connection, now_us: int) -> None:
        if connection.linger_until_us is not None:
            if connection.eof or now_us >= connection.linger_until_us:
                self._drop(connection)
            return
        if connection.unfinished_since_us is not None:
            self._check_unfinished(connection, now_us)
        if self._keys is not None and not connection.ended and connection.visitor.is_stranger(now_us / 1e6):
            log.info("connection closed: its client has no valid API key")
            connection.ended = True
        connection.unsent += connection.session.take_output()
        if connection.unsent and not self._send(connection, now_us):
            self._drop(connection)
        elif connection.done:
            self._end(connection, now_us)
        else:
            self._watch(connection, now_us)

    def _check_unfinished(self, connection: Connection, now_us: int) -> None:
        assert connection.unfinished_since_us is not None
        # While it is not read, the end of its message may wait to be.
        if connection.may_read and now_us - connection.unfinished_since_us >= STUCK_US:
            log.info("connection closed: its client has not finished a message for %s µs", STUCK_US)
            connection.unfinished_since_us = None
            connection.ended = True
            connection.session.feed_eof()

    def _send(self, connection: Connection, now_us: int) -> bool:
        """What the socket takes now; False if the client is gone or stuck."""
        try:
            sent = connection.socket.send(connection.unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False
        del connection.unsent[:sent]
        if sent:
            connection.stuck_since_us = None
        elif connection.stuck_since_us is None:
            connection.stuck_since_us = now_us
        elif now_us - connection.stuck_since_us > STUCK_US:
            log.warning("connection closed: its client has read nothing for %s µs", STUCK_US)
            return False
        return True

    def _watch(self, connection: Connection, now_us: int) -> None:
        """Poll for just what can be done now."""
        assert self._poller is not None
        events = (zmq.POLLIN if connection.may_read else 0) | (zmq.POLLOUT if connection.unsent else 0)
        if events == connection.events:
            return
        if events & ~connection.events & zmq.POLLIN and connection.unfinished_since_us is not None:
            connection.unfinished_since_us = now_us  # it is read again from now on
        connection.events = events
        if events:
            self._poller.register(connection.fd, events)
        else:
            self._poller.unregister(connection.fd)

    def _end(self, connection: Connection, now_us: int) -> None:
        """Everything is sent: close, in the order that loses none of it."""
        assert self._poller is not None
        if connection.eof:
            self._drop(connection)
            return
        try:
            connection.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(connection)
            return
        connection.linger_until_us = now_us + LINGER_US
        connection.events = zmq.POLLIN
        self._poller.register(connection.fd, zmq.POLLIN)

    def _drop(self, connection: Connection) -> None:
        assert self._poller is not None
        if self._connections.pop(connection.fd, None) is None:
            return
        if connection.events:
            self._poller.unregister(connection.fd)
        connection.socket.close()
        self._watch_listener()  # there is a file to accept with again
