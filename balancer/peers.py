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

from balancer.gate import MONITORED, Gate, Strangers
from common.addresses import Address
from common.dealer import Dealer, DealerKeys, set_up
from common.process.listen_fds import address_of
from common.security.exposure import is_exposed, resolve

MONITOR_ADDRESS: Final = "inproc://monitor"

BARRED_A_TURN: Final = 64
"""Messages dropped at once of peers that may not send them, before others get their turn."""

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
    """Whoever connects to our ROUTER socket. By ROUTER_MANDATORY it says when a peer is gone.

    With a gate only those that it lets in, which may do what it says.
    """

    asked: Sequence[bytes] = ()

    def __init__(self, gate: Gate | None = None) -> None:
        self._gate = gate
        self._strangers = Strangers() if gate is not None else None
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._monitor: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
        self._send_frame = super(zmq.Socket, self._socket).send
        """Without what pyzmq's own layer above it adds: two thirds of the time that a frame takes."""
        self._loop = asyncio.get_running_loop()
        self._watched: list[int] = []
        self._lost: Callable[[], None] = lambda: None

    def bind(
        self, address: Address, handed: socket.socket | None = None, *, insecure: bool = False
    ) -> Address:
        """The address with its real port; of the socket that was handed over, if any.

        Raises OSError, or Exposed: see there.
        """
        if handed is not None:
            address = address_of(handed)
        family, resolved = resolve(address)
        if self._gate is None and not insecure and is_exposed(address):
            raise Exposed(address)
        router = self._socket
        if handed is not None:
            router.setsockopt(zmq.USE_FD, handed.detach())  # which closes it in the end
        router.setsockopt(zmq.IPV6, family == socket.AF_INET6)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.ROUTER_HANDOVER, 1)
        set_up(router)
        events = int(zmq.EVENT_DISCONNECTED)
        if self._gate is not None:
            self._gate.secure(router)
            events |= MONITORED
        router.monitor(MONITOR_ADDRESS, events)
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
        for source, call in ((self._socket, ready), (self._monitor, self._take_events)):
            self._watched.append(cast(int, source.getsockopt(zmq.FD)))
            self._loop.add_reader(self._watched[-1], call)
        self._take_events()  # until it was found empty once, its descriptor stays silent
        if self._gate is not None:
            # A peer whose key is gone is found as one whose connection is: by trying to send there.
            self._gate.open(self._context, revoked=lost)

    def send(self, peer: bytes, frame: bytes) -> None:
        if self._gate is None:
            self._send_frame(peer, _MORE_NOBLOCK)
            self._send_frame(frame, _NOBLOCK)
            return
        self._gate.check(peer)
        try:
            self._send_frame(peer, _MORE_NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                self._gate.forget(peer)
            raise
        self._send_frame(frame, _NOBLOCK)

    def has_input(self) -> bool:
        return bool(cast(int, self._socket.getsockopt(zmq.EVENTS)) & _POLLIN)

    def receive(self) -> Received:
        for _ in range(BARRED_A_TURN):
            peer = self._socket.recv(_NOBLOCK)
            last = self._socket.recv(_NOBLOCK, copy=False)
            surplus = len(self._socket.recv_multipart(_NOBLOCK)) if last.more else 0
            if self._gate is None or not self._gate.bars(peer, last):
                return Received(peer, last.bytes, surplus)
        raise zmq.Again

    @property
    def closed(self) -> bool:
        return self._socket.closed

    def close(self) -> None:
        if self.closed:
            return
        for fd in self._watched:
            self._loop.remove_reader(fd)
        if self._gate is not None:
            self._gate.close()
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()
        self._context.term()  # for no longer than LINGER_MS

    def _take_events(self) -> None:
        ended = self._strangers is None
        while cast(int, self._monitor.getsockopt(zmq.EVENTS)) & _POLLIN:
            event = self._monitor.recv_multipart(zmq.NOBLOCK)[0]
            if self._strangers is not None:
                ended |= self._strangers.see(event)
        if ended:
            self._lost()


class Exposed(Exception):
    """To be reachable at that address from other hosts by whoever likes, which nobody said was meant."""


class BalancerPeers:
    """The balancers that a gateway asks, by address; `keys` holds those for each of them."""

    def __init__(
        self, addresses: Sequence[Address], client_id: str, keys: Sequence[DealerKeys | None] = ()
    ) -> None:
        self._context = zmq.Context()
        self._loop = asyncio.get_running_loop()
        self._dealers: dict[bytes, Dealer] = {}
        self._next = 0
        for place, address in enumerate(addresses):
            # Two names of one balancer are two connections there, which must not take over from each other.
            identity = f"client-{client_id}-{place}"
            dealer = Dealer(self._context, address, identity, keys[place] if keys else None)
            self._dealers[str(address).encode()] = dealer
        self.asked: Sequence[bytes] = tuple(self._dealers)

    def watch(self, ready: Callable[[], None], lost: Callable[[], None]) -> None:
        for dealer in self._dealers.values():
            self._loop.add_reader(cast(int, dealer.socket.getsockopt(zmq.FD)), ready)

    def send(self, peer: bytes, frame: bytes) -> None:
        try:
            self._dealers[peer].socket.send(frame, _NOBLOCK)
        except zmq.Again:  # with ZMQ_IMMEDIATE: there is no connection
            self._dealers[peer].look()
            raise zmq.ZMQError(zmq.EHOSTUNREACH) from None

    def has_input(self) -> bool:
        return any(_has_input(dealer.socket) for dealer in self._dealers.values())

    def receive(self) -> Received:
        """From each in turn, so that none of them waits for another's flood."""
        for _ in self.asked:
            peer = self.asked[self._next]
            self._next = (self._next + 1) % len(self.asked)
            dealer = self._dealers[peer].socket
            if _has_input(dealer):
                frame, *surplus = dealer.recv_multipart(_NOBLOCK)
                return Received(peer, frame, len(surplus))
        raise zmq.Again

    @property
    def closed(self) -> bool:
        return self._context.closed

    def close(self) -> None:
        if self.closed:
            return
        for dealer in self._dealers.values():
            self._loop.remove_reader(cast(int, dealer.socket.getsockopt(zmq.FD)))
            dealer.close()
        self._context.term()


def _has_input(dealer: zmq.Socket[bytes]) -> bool:
    return bool(cast(int, dealer.getsockopt(zmq.EVENTS)) & _POLLIN)
