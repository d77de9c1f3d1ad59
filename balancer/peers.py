"""The ZeroMQ sockets of a router: where frames go out and come in, by the id of the peer.

A balancer has one ROUTER socket, which raters and clients connect to. A gateway that runs as a process of
its own has a DEALER socket for each balancer that it is told of; to its dispatcher these are the raters.

A socket's file descriptor becomes readable only when its state *changes*, so after every receive and every
send `has_input` is to be asked again; whoever forgets that waits for ever. Sends never block.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol, cast

import zmq

from common.addresses import Address
from common.wire import MAX_FRAME_BYTES

PING_MS: Final = 500
PING_TIMEOUT_MS: Final = 2000
PING_TTL_MS: Final = 3000
"""ZeroMQ's own heartbeats. Its threads answer them however busy the process is, so this says nothing
of a peer; it frees the descriptors of peers that vanished without a word. Later than MISSED_BEATS:
silence is judged first."""

LINGER_MS: Final = 200
"""What the last frames may take to leave when the process ends."""

HIGH_WATER_FRAMES: Final = 50_000
"""Frames queued for one peer. Above `max_queued`, so that the raters' credit is the real bound."""

RECONNECT_MS: Final = 50
MAX_RECONNECT_MS: Final = 500
"""A balancer that was restarted is found again within this."""

MONITOR_ADDRESS: Final = "inproc://monitor"

# Arithmetic on the enums themselves takes a microsecond.
_POLLIN: Final = int(zmq.POLLIN)
_NOBLOCK: Final = int(zmq.NOBLOCK)
_MORE_NOBLOCK: Final = int(zmq.SNDMORE) | int(zmq.NOBLOCK)


class Received(NamedTuple):
    peer: bytes
    frame: bytes
    surplus: int
    """Frames beyond the one that a message has: then it is none of ours."""


class Peers(Protocol):
    """For a running event loop."""

    def watch(self, ready: Callable[[], None], lost: Callable[[], None]) -> None:
        """`ready` is called when there may be input, `lost` when a connection has ended."""

    def send(self, peer: bytes, frame: bytes) -> None:
        """Raises zmq.ZMQError: EHOSTUNREACH without a connection to it, EAGAIN when its queue is full."""

    def has_input(self) -> bool: ...

    def receive(self) -> Received:
        """Raises zmq.Again when there is nothing."""

    @property
    def asked(self) -> Sequence[bytes]:
        """Peers that are always there to be asked: a gateway's balancers."""

    @property
    def closed(self) -> bool: ...

    def close(self) -> None: ...


class RouterPeers:
    """Whoever connects to our ROUTER socket. By ROUTER_MANDATORY it says when a peer is gone."""

    asked: Sequence[bytes] = ()

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._monitor: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
        self._send_frame = super(zmq.Socket, self._socket).send
        """Without what pyzmq's own layer above it adds: two thirds of the time that a frame takes."""
        self._loop = asyncio.get_running_loop()
        self._watched: list[int] = []
        self._lost: Callable[[], None] = lambda: None

    def bind(self, address: Address, handed: socket.socket | None = None) -> Address:
        """The address with its real port; of the socket that was handed over, if any. Raises OSError."""
        family, _, _, _, resolved = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        router = self._socket
        if handed is not None:
            address = address._replace(port=int(handed.getsockname()[1]))
            router.setsockopt(zmq.USE_FD, handed.detach())  # which closes it in the end
        router.setsockopt(zmq.IPV6, family == socket.AF_INET6)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.ROUTER_HANDOVER, 1)
        _set_up(router)
        router.monitor(MONITOR_ADDRESS, int(zmq.EVENT_DISCONNECTED))
        self._monitor.setsockopt(zmq.RCVHWM, 0)  # a full one would hold up the thread of all connections
        self._monitor.connect(MONITOR_ADDRESS)
        try:
            router.bind(f"tcp://{Address(str(resolved[0]), address.port)}")
        except zmq.ZMQError as error:
            raise OSError(error.errno, zmq.strerror(error.errno or 0)) from None
        bound = router.getsockopt_string(zmq.LAST_ENDPOINT)
        return address._replace(port=int(bound.rpartition(":")[2]))

    def watch(self, ready: Callable[[], None], lost: Callable[[], None]) -> None:
        self._lost = lost
        for source, call in ((self._socket, ready), (self._monitor, self._take_disconnects)):
            self._watched.append(cast(int, source.getsockopt(zmq.FD)))
            self._loop.add_reader(self._watched[-1], call)
        self._take_disconnects()  # until it was found empty once, its descriptor stays silent

    def send(self, peer: bytes, frame: bytes) -> None:
        self._send_frame(peer, _MORE_NOBLOCK)
        self._send_frame(frame, _NOBLOCK)

    def has_input(self) -> bool:
        return bool(cast(int, self._socket.getsockopt(zmq.EVENTS)) & _POLLIN)

    def receive(self) -> Received:
        peer = self._socket.recv(_NOBLOCK)
        last = self._socket.recv(_NOBLOCK, copy=False)
        surplus = len(self._socket.recv_multipart(_NOBLOCK)) if last.more else 0
        return Received(peer, last.bytes, surplus)

    @property
    def closed(self) -> bool:
        return self._socket.closed

    def close(self) -> None:
        if self.closed:
            return
        for fd in self._watched:
            self._loop.remove_reader(fd)
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()
        self._context.term()  # for no longer than LINGER_MS

    def _take_disconnects(self) -> None:
        while cast(int, self._monitor.getsockopt(zmq.EVENTS)) & _POLLIN:
            self._monitor.recv_multipart(zmq.NOBLOCK)
        self._lost()


class BalancerPeers:
    """The balancers that a gateway asks, by address. ZMQ_IMMEDIATE: no queue for one that is away."""

    def __init__(self, addresses: Sequence[Address], client_id: str) -> None:
        self._context = zmq.Context()
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[bytes, zmq.Socket[bytes]] = {}
        self._next = 0
        for place, address in enumerate(addresses):
            dealer: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
            # Two names of one balancer are two connections there, which must not take over from each other.
            dealer.setsockopt(zmq.IDENTITY, f"client-{client_id}-{place}".encode())
            dealer.setsockopt(zmq.IMMEDIATE, 1)
            dealer.setsockopt(zmq.IPV6, ":" in address.host)
            dealer.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
            dealer.setsockopt(zmq.RECONNECT_IVL_MAX, MAX_RECONNECT_MS)
            dealer.setsockopt(zmq.PROBE_ROUTER, 1)
            _set_up(dealer)
            dealer.connect(f"tcp://{address}")
            self._sockets[str(address).encode()] = dealer
        self.asked: Sequence[bytes] = tuple(self._sockets)

    def watch(self, ready: Callable[[], None], lost: Callable[[], None]) -> None:
        for dealer in self._sockets.values():
            self._loop.add_reader(cast(int, dealer.getsockopt(zmq.FD)), ready)

    def send(self, peer: bytes, frame: bytes) -> None:
        try:
            self._sockets[peer].send(frame, _NOBLOCK)
        except zmq.Again:  # with ZMQ_IMMEDIATE: there is no connection
            raise zmq.ZMQError(zmq.EHOSTUNREACH) from None

    def has_input(self) -> bool:
        return any(self._has_input(dealer) for dealer in self._sockets.values())

    def receive(self) -> Received:
        """From each in turn, so that none of them waits for another's flood."""
        for _ in self.asked:
            peer = self.asked[self._next]
            self._next = (self._next + 1) % len(self.asked)
            dealer = self._sockets[peer]
            if self._has_input(dealer):
                frame, *surplus = dealer.recv_multipart(_NOBLOCK)
                return Received(peer, frame, len(surplus))
        raise zmq.Again

    @property
    def closed(self) -> bool:
        return self._context.closed

    def close(self) -> None:
        if self.closed:
            return
        for dealer in self._sockets.values():
            self._loop.remove_reader(cast(int, dealer.getsockopt(zmq.FD)))
            dealer.close()
        self._context.term()

    @staticmethod
    def _has_input(dealer: zmq.Socket[bytes]) -> bool:
        return bool(cast(int, dealer.getsockopt(zmq.EVENTS)) & _POLLIN)


def _set_up(sock: zmq.Socket[bytes]) -> None:
    sock.setsockopt(zmq.LINGER, LINGER_MS)
    sock.setsockopt(zmq.SNDHWM, HIGH_WATER_FRAMES)
    sock.setsockopt(zmq.RCVHWM, HIGH_WATER_FRAMES)
    sock.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    sock.setsockopt(zmq.HEARTBEAT_IVL, PING_MS)
    sock.setsockopt(zmq.HEARTBEAT_TIMEOUT, PING_TIMEOUT_MS)
    sock.setsockopt(zmq.HEARTBEAT_TTL, PING_TTL_MS)
    sock.setsockopt(zmq.TCP_KEEPALIVE, 1)
