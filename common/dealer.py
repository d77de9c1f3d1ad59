"""A DEALER socket to a balancer: of a rater, of a gateway, of a program.

It keeps no queue for a balancer that is away (ZMQ_IMMEDIATE), finds one again that was restarted, gives up
a connection on which nothing comes back, and proves itself with CURVE where it has keys.

A balancer that turns us away ends it: libzmq does not try again after a handshake that was refused. So
`look`, called with each heartbeat, says why in the log, and knocks again: a key that is allowed meanwhile
gets in without a restart.
"""

from __future__ import annotations

import logging
import struct
import time
from typing import Final, NamedTuple

import zmq

from common.addresses import Address
from common.logs import Throttle
from common.security.curve import SecretKey
from common.wire import MAX_FRAME_BYTES

log = logging.getLogger(__name__)

RECONNECT_MS: Final = 50
MAX_RECONNECT_MS: Final = 500
"""A balancer that was restarted is found again within this."""

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

ENVELOPE_BYTES: Final = 64
"""What CURVE adds to a frame, which counts where frames are bounded: 33 bytes."""

WARN_EVERY_S: Final = 5.0
"""A balancer that lets us not in is reported no more often than this."""

_FAILURES: Final = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


class DealerKeys(NamedTuple):
    own: SecretKey
    server: str
    """The balancer's public key."""


class Dealer:
    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: Address,
        identity: str,
        keys: DealerKeys | None = None,
        *,
        linger_ms: int = LINGER_MS,
        high_water_frames: int = HIGH_WATER_FRAMES,
    ) -> None:
        self.address = address
        self._endpoint = f"tcp://{address}"
        self._keys = keys
        self._warnings = Throttle(WARN_EVERY_S)
        self.socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, identity.encode())
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        self.socket.setsockopt(zmq.IPV6, ":" in address.host)
        self.socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, MAX_RECONNECT_MS)
        self.socket.setsockopt(
            zmq.PROBE_ROUTER, 1
        )  # the balancer hears of us at once, not with our next beat
        set_up(self.socket, linger_ms, high_water_frames)
        if keys is not None:
            self.socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server.encode())
            self.socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.own.public.encode())
            self.socket.setsockopt(zmq.CURVE_SECRETKEY, keys.own.secret.encode())
        self._monitor: zmq.Socket[bytes] = context.socket(zmq.PAIR)
        # A full one would hold up the thread of all connections. It grows by one event a reconnection
        # (RECONNECT_MS and more) until `look` is called.
        self._monitor.setsockopt(zmq.RCVHWM, 0)
        where = f"inproc://dealer-{id(self)}"
        self.socket.monitor(where, int(_FAILURES))
        self._monitor.connect(where)
        self.socket.connect(self._endpoint)

    def look(self) -> None:
        """With each heartbeat: whether the balancer turned us away since the last one."""
        event = value = 0
        while self._monitor.poll(0):
            event, value = struct.unpack("=HI", self._monitor.recv_multipart(zmq.NOBLOCK)[0])
        if not event:
            return
        if (held := self._warnings.passes(time.monotonic())) is not None:
            log.warning("balancer=%s held_back=%s: %s", self.address, held, self._why(event, value))
        if event != zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:  # after that libzmq itself tries again
            self.socket.disconnect(self._endpoint)
            self.socket.connect(self._endpoint)

    def _why(self, event: int, value: int) -> str:
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH and self._keys is not None:
            own = self._keys.own
            if value == 400:
                return f"it does not let us in: our key {own.name} ({own.public}) is not authorized there"
            return f"it lets nobody in now: its authenticator answers {value}"
        if self._keys is None:
            return "it does not let us in: it wants a key, and we have none (--curve-key)"
        if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            return "it has no CURVE, and we insist on it (--curve-key)"
        return (
            "it ends the connection before we are in: its key is not the one that we were given "
            "(--curve-server-key), or its authenticator is gone"
        )

    def close(self) -> None:
        self.socket.disable_monitor()
        self._monitor.close()
        self.socket.close()


def set_up(
    sock: zmq.Socket[bytes], linger_ms: int = LINGER_MS, high_water_frames: int = HIGH_WATER_FRAMES
) -> None:
    """What both ends of a connection between a balancer and its peers have in common."""
    sock.setsockopt(zmq.LINGER, linger_ms)
    sock.setsockopt(zmq.SNDHWM, high_water_frames)
    sock.setsockopt(zmq.RCVHWM, high_water_frames)
    sock.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES + ENVELOPE_BYTES)
    sock.setsockopt(zmq.HEARTBEAT_IVL, PING_MS)
    sock.setsockopt(zmq.HEARTBEAT_TIMEOUT, PING_TIMEOUT_MS)
    sock.setsockopt(zmq.HEARTBEAT_TTL, PING_TTL_MS)
    sock.setsockopt(zmq.TCP_KEEPALIVE, 1)
