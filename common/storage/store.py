"""The connection to the store: one, synchronous, made for batches.

A batch is written at once and its replies are read in order, so it costs one round trip. Sending and
receiving are two steps: another batch may be sent before the replies to the last one are read, and the
store carries them out, and replies, in that order. redis-py makes the connection (URL, password, TLS,
database); the batches themselves are packed and parsed by hiredis directly, which takes about a third of the
time of a redis-py pipeline.

An error that the store gives to one command is a value among the replies and does not disturb the
others. When the connection breaks, all replies are lost and it is unknown which commands ran:
`StoreUnavailable` is raised, and the next call connects anew. Nothing is retried in here.

The store may be a group with sentinels (`common.storage.sentinel`): each new connection then goes to the one
that is the primary by that time. A server that answers READONLY is no primary any more, or never was: the
connection is given up after that batch.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import hiredis
import redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from common.addresses import Address
from common.errors import StoreUnavailable
from common.storage.sentinel import SCHEMES as SENTINEL_SCHEMES
from common.storage.sentinel import Sentinels, parse_sentinel_url
from common.storage.store_url import (
    EMBEDDED,
    StoreUrlError,
    check_tls,
    connection_pool,
    describe_store_url,
    resolve_store_url,
)

log = logging.getLogger(__name__)

Command = tuple[bytes | str | int, ...]
Reply = Any
"""bytes, int, None, a list of replies, or a ResponseError."""

DEFAULT_TIMEOUT_MS: Final = 2_000
"""A store that has not answered a batch by then is taken to be gone: batches take milliseconds,
and requests have deadlines of a few seconds in which they can still be retried."""

_LOOK_EVERY_S: Final = 1.0
_LOOK_AGAIN_S: Final = 10.0
"""Whether a primary still is one is asked so often; when no sentinel answered, which holds up the caller
for `common.storage.sentinel.TIMEOUT_MS` each, so much later."""

NOT_DONE: Final = (
    "MOVED",
    "ASK",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "READONLY",
    "NOSCRIPT",
    "EXECABORT",
)
"""What a node of a cluster says of a command that it did not run, and that may go elsewhere or wait."""

_READ_BYTES: Final = 65_536
"""One read takes the replies of a full batch of debits."""

_MORE: Final = object()
_pack: Final[Callable[[Command], bytes]] = cast(Any, hiredis.pack_command)


class Sent:
    """A batch whose replies are still to be read."""

    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count


class StoreConnection:
    """One connection, for one thread. It is made on first use and after a failure made again."""

    def __init__(self, url: str, *, timeout_ms: int = DEFAULT_TIMEOUT_MS) -> None:
        self._url = url
        self._timeout_s = timeout_ms / 1000
        self._connection: Any = None
        self._socket: socket.socket | None = None
        self._reader: Any = None
        self._buffer = bytearray(_READ_BYTES)
        self._unread: deque[Sent] = deque()
        self._sentinels: Sentinels | None = None
        self._primary_url = ""
        self._look_at_s = 0.0
        self._made = 0
        self._is_readonly = False
        self.was_redirected = False
        """Set by a node of a cluster that did not do some command, and says why; see
        `common.storage.cluster`."""
        if url.startswith(SENTINEL_SCHEMES):
            try:
                parsed = parse_sentinel_url(url)
            except ValueError as error:
                raise StoreUrlError(f"not a store's URL: {self.where}: {error}") from None
            self._sentinels = Sentinels(parsed, _ask)
            for sentinel in parsed.sentinels:
                connection_pool(sentinel, self._timeout_s)
            url = parsed.primary_url(Address("primary", 0))
        if not url.startswith(EMBEDDED):
            connection_pool(
                resolve_store_url(url), self._timeout_s
            )  # a wrong URL is found now, not at the first batch
            check_tls(url)

    @property
    def where(self) -> str:
        """The store's address, fit for logs and messages."""
        return describe_store_url(self._url)

    @property
    def number(self) -> int:
        """Which of the connections made so far is open; 0 when none is. Another one may be another host."""
        return 0 if self._reader is None else self._made

    def execute(self, commands: Sequence[Command]) -> list[Reply]:
        """Send all commands, return all replies in order; a refused one's is a ResponseError.

        All that was sent before must have been received. Raises StoreUnavailable when the connection
        can't be made, breaks, or gives no answer in time.
        """
        return self.receive(self.send(commands)) if commands else []

    def send(self, commands: Sequence[Command]) -> Sent:
        """Send all commands, at least one. Raises StoreUnavailable when that can't be done."""
        request = b"".join(map(_pack, commands))
        if self._reader is None:
            self._connect()
        sock = self._socket
        assert sock is not None
        try:
            sock.sendall(request)
        except (OSError, RedisError) as error:
            self.close()
            raise StoreUnavailable(detail=f"{self.where}: {_cause(error)}") from error
        except BaseException:  # interrupted half-way: what comes after is not a command
            self.close()
            raise
        sent = Sent(len(commands))
        self._unread.append(sent)
        return sent

    def receive(self, sent: Sent, give_up_s: float | None = None) -> list[Reply]:
        """The replies to a batch: batches are received in the order in which they were sent.

        They are waited for until `give_up_s` by the monotonic clock, where that comes before the time-out.
        Raises StoreUnavailable when the connection has broken meanwhile, breaks, or gives no answer in
        time.
        """
        if sent not in self._unread:
            raise StoreUnavailable(detail=f"{self.where}: the connection broke")
        if self._unread[0] is not sent:
            raise RuntimeError("the replies to another batch come first")
        sock, reader = self._socket, self._reader
        assert sock is not None
        try:
            replies = self._read(sock, reader, sent.count, give_up_s)
        except (OSError, RedisError, hiredis.HiredisError) as error:
            self.close()
            raise StoreUnavailable(detail=f"{self.where}: {_cause(error)}") from error
        except BaseException:  # interrupted half-way: what is still to come belongs to no one
            self.close()
            raise
        self._unread.popleft()
        if self._is_readonly:
            self.close()
        return replies

    @property
    def unread(self) -> int:
        """How many batches were sent whose replies can still be received."""
        return len(self._unread)

    def fileno(self) -> int:
        """The descriptor that becomes readable when replies come; -1 when there is no connection."""
        return -1 if self._socket is None else self._socket.fileno()

    @property
    def has_input(self) -> bool:
        """Whether some of the unread replies are in this process already, and `fileno` may stay silent."""
        if self._reader is None or not self._unread:
            return False
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        return bool(self._reader.has_data())

    def clock_offset_us(self, mono_us: Callable[[], int]) -> int:
        """What to add to the local clock `mono_us` to get the store's, to within half a round trip."""
        return clock_offset_us(self.execute, self.where, mono_us)

    def leave_old_primary(self) -> None:
        """Close the connection to a server that no sentinel takes for the primary any more. Call it often.

        One that hung during a failover takes itself for the primary when it wakes, until the sentinels
        make it a replica some 10 s later. With any other URL this does nothing.
        """
        now_s = time.monotonic()
        if self._sentinels is None or self._reader is None or now_s < self._look_at_s:
            return
        named: list[str] = []
        for url in self._sentinels.primaries([]):
            named.append(url)
            if url == self._primary_url:
                break
        self._look_at_s = now_s + (_LOOK_EVERY_S if named else _LOOK_AGAIN_S)
        if named and self._primary_url not in named:
            log.info("store=%s leaves=%s", self.where, describe_store_url(self._primary_url))
            self.close()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        self._socket = self._reader = None
        self._unread.clear()
        if connection is not None:
            connection.disconnect()

    def __enter__(self) -> StoreConnection:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _read(self, sock: socket.socket, reader: Any, count: int, until_s: float | None) -> list[Reply]:
        gets, feed, buffer = reader.gets, reader.feed, self._buffer
        replies: list[Reply] = []
        append = replies.append
        give_up_s = time.monotonic() + self._timeout_s
        while True:
            while (reply := gets()) is not _MORE:
                append(reply)
                if len(replies) == count:
                    return replies
            if time.monotonic() > give_up_s:  # one that trickles never runs into the socket's timeout
                raise TimeoutError
            if until_s is not None and not self._is_readable(sock, until_s):
                raise TimeoutError
            size = sock.recv_into(buffer)
            if not size:
                raise ConnectionResetError("closed by the store")
            feed(buffer, 0, size)

    @staticmethod
    def _is_readable(sock: socket.socket, until_s: float) -> bool:
        """Whether there is something to read, or is before that moment."""
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            return True
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        return bool(poller.poll(max(0, int((until_s - time.monotonic()) * 1000))))

    def _connect(self) -> None:
        if self._sentinels is None:
            self._connect_to(resolve_store_url(self._url))
            return
        problems: list[str] = []
        for url in self._sentinels.primaries(problems):
            try:
                self._connect_to(url)
                role = self.execute([("ROLE",)])[0]
            except StoreUnavailable as error:
                problems.append(str(error.data["detail"]))
                continue
            if isinstance(role, list) and role[0] == b"master":
                if url != self._primary_url:
                    log.info("store=%s primary=%s", self.where, describe_store_url(url))
                self._primary_url = url
                return
            self.close()
            problems.append(f"{describe_store_url(url)} is not a primary")
        raise StoreUnavailable(detail=f"{self.where}: no primary found: {'; '.join(problems)}")

    def _connect_to(self, url: str) -> None:
        try:
            connection: Any = connection_pool(url, self._timeout_s).make_connection()
            self._connection = connection
            connection.connect()
        except (OSError, RedisError) as error:
            self.close()
            raise StoreUnavailable(detail=f"{describe_store_url(url)}: {_cause(error)}") from error
        except TypeError as error:  # redis-py hands unknown options of the URL on as arguments
            raise StoreUrlError(f"an option in the store's URL: {error}") from None
        # From here on only the socket is used. The handshake's replies are all read by now.
        self._socket = connection._sock
        _set_timeout(connection._sock, self._timeout_s)
        self._reader = hiredis.Reader(replyError=self._response_error, notEnoughData=_MORE)
        self._is_readonly = False
        self._made += 1

    def _response_error(self, text: str) -> ResponseError:
        # redis-py's own mapping makes connection errors of some and cuts the code off others.
        if text.startswith("READONLY"):
            self._is_readonly = True
        if text.startswith(NOT_DONE):
            self.was_redirected = True
        return NoScriptError(text) if text.startswith("NOSCRIPT") else ResponseError(text)


def clock_offset_us(
    execute: Callable[[list[Command]], list[Reply]], where: str, mono_us: Callable[[], int]
) -> int:
    """What to add to the local clock `mono_us` to get that of the store behind `execute`, to within half a
    round trip. Raises StoreUnavailable, which names `where`."""
    before_us = mono_us()
    reply = execute([("TIME",)])[0]
    after_us = mono_us()
    if isinstance(reply, ResponseError):
        raise StoreUnavailable(detail=f"{where}: {reply}")
    seconds, micros = reply
    return int(seconds) * 1_000_000 + int(micros) - (before_us + after_us) // 2


def _set_timeout(sock: socket.socket, timeout_s: float) -> None:
    """Python's own timeouts cost a system call before each send and receive, the kernel's do not."""
    if isinstance(sock, ssl.SSLSocket):  # which would take the kernel's for a reason to go on waiting
        sock.settimeout(timeout_s)
        return
    sock.settimeout(None)
    timeout = struct.pack("@ll", *divmod(int(timeout_s * 1_000_000), 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)


def _ask(url: str, command: Command, timeout_ms: int) -> Reply:
    with StoreConnection(url, timeout_ms=timeout_ms) as connection:
        return connection.execute([command])[0]


def _cause(error: BaseException) -> str:
    if isinstance(error, TimeoutError | BlockingIOError | redis.TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
