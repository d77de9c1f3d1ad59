"""TLS before a gateway: the handshakes, and certificates that are renewed without a restart.

`Certificates` holds the contexts for new connections, made anew when a file on the disk has changed. What was
made stays until the new files are whole: a pair that does not fit is logged, and the old one goes on.

`TlsEntrance` stands where connections arrive. One that has not shaken hands in `HANDSHAKE_S` is cut, at most
`MAX_HANDSHAKES` are under way at once, and only those that have are a connection of the gateway: who is
silent takes no place there. What failed is logged with its reason, such as a client that speaks no TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from common.addresses import Address
from common.logs import Throttle
from common.tls import ServerTls, TlsError, explain

log = logging.getLogger(__name__)

HANDSHAKE_S: Final = 5.0
"""Two round trips and some milliseconds of work; as long as a request may take in all."""

MAX_HANDSHAKES: Final = 1_000
"""Some 40 KB each. After a restart all clients come at once, and each takes about 1 ms of the processor."""

SHUTDOWN_S: Final = 1.0
"""For the other side to confirm the end of a connection, or read the last answers: `tcp_gateway.LINGER_S`."""

PLAIN_MESSAGE: Final = "this port speaks TLS"

LOOK_EVERY_S: Final = 1.0
WARN_EVERY_S: Final = 5.0

JSONRPC: Final = ()
HTTP: Final = ("http/1.1",)
"""What ALPN offers."""

_Signature = tuple[tuple[int, int, int] | None, ...]


class Certificates:
    """The contexts of one process. Raises TlsError at the start only."""

    def __init__(self, settings: ServerTls) -> None:
        self._settings = settings
        self._seen = self._tried = _signature(settings.files)
        self._contexts = self._load()
        self._timer: asyncio.TimerHandle | None = None

    def context(self, protocols: tuple[str, ...]) -> _Context:
        return self._contexts[protocols]

    def watch(self) -> None:
        """Look for changes from now on, once a second."""
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self.watch)
        self.look()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def look(self) -> None:
        """Take what has changed, once it has stayed the same from one look to the next: files are written one
        after the other."""
        seen, self._seen = self._seen, _signature(self._settings.files)
        if self._seen != seen or self._seen == self._tried:
            return
        self._tried = self._seen
        try:
            self._contexts = self._load()
        except TlsError as error:
            log.error("certificate not taken, the one before stays: %s", error)
        else:
            log.info("certificate taken for new connections file=%s", self._settings.cert)

    def _load(self) -> dict[tuple[str, ...], _Context]:
        return {protocols: self._make(protocols) for protocols in (JSONRPC, HTTP)}

    def _make(self, protocols: tuple[str, ...]) -> _Context:
        context = self._settings.context(_Context, protocols)
        context.sslobject_class = _Side
        context.ways = deque()
        return context


def _signature(files: tuple[Path, ...]) -> _Signature:
    return tuple(map(_state, files))


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class _Way(NamedTuple):
    """To a client that is shaking hands."""

    transport: asyncio.Transport
    plain_words: Callable[[], bytes]


_NO_TLS: Final = ("HTTP_REQUEST", "WRONG_VERSION_NUMBER")
"""Errors of which OpenSSL tells the other side nothing, as it would not understand."""


class _Context(ssl.SSLContext):
    """Makes our sides of connections, in the order in which `ways` says that they arrived: the event loop
    asks for each once, from a queue of its own, and does not say for which connection."""

    ways: deque[_Way]

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **more: Any) -> _Side:
        side = super().wrap_bio(incoming, outgoing, *args, **more)
        assert isinstance(side, _Side)
        side.outgoing, side.way = outgoing, self.ways.popleft()
        side.wire = side.way.transport
        return side


class _Side(ssl.SSLObject):
    """Our side of one connection. It tells a client why it is not let in: uvloop closes the connection before
    OpenSSL's alert is sent, and to a client that speaks no TLS there is none."""

    outgoing: ssl.MemoryBIO
    way: _Way | None
    wire: asyncio.Transport
    """What is encrypted goes there."""

    def do_handshake(self) -> None:
        assert self.way is not None
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            words = self.way.plain_words() if error.reason in _NO_TLS else self.outgoing.read()
            # So little was sent before that the kernel has room for it, and takes it at once.
            with contextlib.suppress(OSError):
                os.write(self.way.transport.get_extra_info("socket").fileno(), words)
            raise
        self.way = None


class TlsEntrance:
    """Makes a gateway's connections of those that have shaken hands; called for each that arrives.

    `name` is the port's in the log, `plain_words` what a client is told that speaks no TLS.
    """

    def __init__(
        self,
        certificates: Certificates,
        protocols: tuple[str, ...],
        name: str,
        make: Callable[[], asyncio.Protocol],
        plain_words: Callable[[], bytes],
    ) -> None:
        self._certificates = certificates
        self._protocols = protocols
        self._name = name
        self._make = make
        self._plain_words = plain_words
        self._loop = asyncio.get_running_loop()
        self._arriving: set[asyncio.Task[None]] = set()
        self._failed = Throttle(WARN_EVERY_S)
        self._full = Throttle(WARN_EVERY_S)

    def __call__(self) -> asyncio.Protocol:
        return _Arrival(self)

    @property
    def is_busy(self) -> bool:
        """Somebody is shaking hands."""
        return bool(self._arriving)

    def stop(self) -> None:
        """Cut whoever has not shaken hands yet."""
        for task in self._arriving:
            task.cancel()

    def arrive(self, transport: asyncio.Transport) -> None:
        if len(self._arriving) >= MAX_HANDSHAKES:
            held = self._full.passes(time.monotonic())
            if held is not None:
                log.warning("port=%s handshakes limit=%s held_back=%s", self._name, MAX_HANDSHAKES, held)
            transport.abort()
            return
        meanwhile = _Meanwhile()
        context, way = self._certificates.context(self._protocols), _Way(transport, self._plain_words)
        context.ways.append(way)
        shaking = _Begun(
            self._loop.start_tls(
                transport,
                meanwhile,
                context,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=SHUTDOWN_S,
            )
        )
        task = self._loop.create_task(self._admit(shaking, meanwhile, peer_of(transport)))
        self._arriving.add(task)
        task.add_done_callback(lambda task: self._leave(task, context, way))

    def _leave(self, task: asyncio.Task[None], context: _Context, way: _Way) -> None:
        self._arriving.discard(task)
        if task.cancelled():
            way.transport.abort()
            with contextlib.suppress(ValueError):  # it was cut before its turn
                context.ways.remove(way)

    async def _admit(self, shaking: _Begun, meanwhile: _Meanwhile, peer: str) -> None:
        try:
            tls = await shaking
        except OSError as error:
            self._complain(peer, error)
            return
        if tls is None or meanwhile.lost or tls.get_extra_info("ssl_object") is None:
            return  # it was cut
        connection = self._make()
        tls.set_protocol(connection)
        connection.connection_made(tls)
        if meanwhile.data and not tls.is_closing():  # the gateway may have had no room for it
            connection.data_received(meanwhile.data)

    def _complain(self, peer: str, error: Exception) -> None:
        held = self._failed.passes(time.monotonic())
        if held is None:
            return
        if isinstance(error, ConnectionAbortedError):
            said = f"no handshake within {HANDSHAKE_S:g} s"
        elif isinstance(error, ConnectionResetError):
            said = "it left during the handshake"
        else:
            said = explain(error)
        log.warning("port=%s peer=%s TLS failed: %s held_back=%s", self._name, peer, said, held)


class _Arrival(asyncio.Protocol):
    """A connection before its handshake begins."""

    def __init__(self, entrance: TlsEntrance) -> None:
        self._entrance = entrance

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._entrance.arrive(cast(asyncio.Transport, transport))


class _Begun:
    """A coroutine that has run up to its first wait, for a task to run the rest of it.

    The event loop reads from a new connection as soon as `connection_made` has returned, whether reading was
    paused in there or not. By then TLS has to be the reader, or the client's first words are lost.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, asyncio.Transport | None]) -> None:
        self._steps = coroutine.__await__()
        self._first = next(self._steps)

    def __await__(self) -> Generator[Any, None, asyncio.Transport | None]:
        try:
            yield self._first
        except BaseException as error:
            self._steps.throw(error)
            raise
        return (yield from self._steps)


class _Meanwhile(asyncio.Protocol):
    """Keeps what a client says between the end of its handshake and the making of its connection."""

    def __init__(self) -> None:
        self.data = b""
        self.lost = False

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


def unsent_bytes(transport: asyncio.Transport) -> int:
    """What a client has not taken yet. Over TLS most of it waits encrypted, in the transport below: that
    takes as a whole what is written before it is full, and the one above counts the rest only."""
    side = transport.get_extra_info("ssl_object")
    below = side.wire.get_write_buffer_size() if isinstance(side, _Side) else 0
    return transport.get_write_buffer_size() + below


def peer_of(transport: asyncio.BaseTransport) -> str:
    name = transport.get_extra_info("peername")
    return str(Address(name[0], name[1])) if name else "?"


_spoken: Final = Throttle(WARN_EVERY_S)


def warn_of_tls(port: str, transport: asyncio.BaseTransport) -> None:
    """A client of a port without TLS began a handshake."""
    held = _spoken.passes(time.monotonic())
    if held is not None and transport.get_extra_info("ssl_object") is None:
        log.warning(
            "port=%s peer=%s speaks TLS, but this port does not (--tls-cert) held_back=%s",
            port,
            peer_of(transport),
            held,
        )
