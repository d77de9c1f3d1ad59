"""Who is let in at the router port: CURVE, with ZAP (ZeroMQ RFC 27) as its doorkeeper, and what each may say.

Whoever connects must prove a key that lies in the folder of authorized keys. libzmq asks the authenticator
here about each handshake, by a socket of its own, and lets nobody in while there is nobody to ask
(ZMQ_ZAP_ENFORCE_DOMAIN) or no answer comes. So every failure is a closed door: a folder that can't be read,
or that others may write to, an authenticator that failed, a file that is damaged.

libzmq puts the key on every message of a connection (the property User-Id). By the key's role a rater's
connection can only do what raters do, and a client's only what clients do: else a key stolen from a client
would serve to join as a rater, and be sent everybody's requests.

The folder is looked at with each handshake and twice a second. A key that is gone from it is revoked: what
comes by its connections is dropped from then on, nothing is sent there any more, and what a rater had goes
to others. The socket itself, which libzmq can't be told to close, ends when the peer lets go of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Final, cast

import zmq
from zmq.utils import z85

from common.logs import Throttle
from common.security.curve import AuthorizedKeys, KeyFileError, PublicKey, Role, SecretKey
from common.wire import PROBE, Kind

log = logging.getLogger(__name__)

ZAP_ADDRESS: Final = "inproc://zeromq.zap.01"
ZAP_VERSION: Final = b"1.0"
DOMAIN: Final = b"ratel"

LOOK_EVERY_S: Final = 0.5
"""How long a revoked key may go on, at most: a heartbeat."""

FRESH_S: Final = 0.05
"""A folder that was read this recently is not read again: a flood of handshakes costs no more than that."""

HANDSHAKE_MS: Final = 10_000
"""Until then a peer must have proved itself, over a slow line and while this process is held up, too."""

WARN_EVERY_S: Final = 5.0
"""Each kind of refusal is reported no more often than this: strangers cause them at will."""

MAX_PEERS: Final = 20_000
"""Peers whose keys are remembered: more than there may be of them. One that is forgotten is learned again
with its next heartbeat."""

MAY_SAY: Final = {
    Role.RATER: frozenset({Kind.STATE, Kind.DONE, Kind.LEAVE, Kind.GOODBYE}),
    Role.CLIENT: frozenset({Kind.JOIN, Kind.WORK, Kind.BEAT, Kind.DRAINED}),
    Role.BALANCER: frozenset[Kind](),
}

MONITORED: Final = int(
    zmq.EVENT_ACCEPTED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
"""Events of the router's monitor for `Strangers`. Who is refused for its key is reported by the `Gate`."""

_POLLIN: Final = int(zmq.POLLIN)
_NOBLOCK: Final = int(zmq.NOBLOCK)


class Gate:
    """For one ROUTER socket, in a running event loop: `secure` it, `open`, and ask about each message."""

    def __init__(self, key: SecretKey, authorized: AuthorizedKeys) -> None:
        """Raises KeyFileError when the folder, or a file in it, is not as it must be."""
        self._key = key
        self._folder = authorized
        found = authorized.read()
        if found.errors:
            raise KeyFileError(found.errors[0])
        self._keys = found.keys
        """By public key. While the folder can't be read, those that were in it: they stay, nobody comes."""
        self._trouble = ""
        """Why nobody is let in."""
        self._errors: list[str] = []
        self._read_at_s = time.monotonic()
        self._key_of: dict[bytes, str] = {}
        self._zap: zmq.Socket[bytes] | None = None
        self._zap_fd = -1
        self._timer: asyncio.TimerHandle | None = None
        self._revoked: Callable[[], None] = lambda: None
        self._refusals, self._barred, self._troubles = (Throttle(WARN_EVERY_S) for _ in range(3))

    def secure(self, router: zmq.Socket[bytes]) -> None:
        """Before it is bound. From then on nobody gets in without an open gate."""
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_SECRETKEY, self._key.secret.encode())
        router.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        router.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)

    def open(self, context: zmq.Context[zmq.Socket[bytes]], revoked: Callable[[], None]) -> None:
        """`revoked` is called when keys are gone that peers may be connected with."""
        self._revoked = revoked
        zap = self._zap = context.socket(zmq.ROUTER)
        zap.setsockopt(zmq.LINGER, 0)
        zap.bind(ZAP_ADDRESS)
        self._zap_fd = cast(int, zap.getsockopt(zmq.FD))
        loop = asyncio.get_running_loop()
        loop.add_reader(self._zap_fd, self._answer_all)
        self._look()
        self._answer_all()  # until it was found empty once, its descriptor stays silent

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._close_zap()

    def _close_zap(self) -> None:
        if self._zap is not None:
            asyncio.get_running_loop().remove_reader(self._zap_fd)
            self._zap.close()
            self._zap = None

    # --- messages of those that are in ---------------------------------------------------------

    def bars(self, peer: bytes, message: zmq.Frame) -> bool:
        """Whether a message is to be dropped: its sender may not say this, or may say nothing any more."""
        try:
            public = str(message.get("User-Id"))
        except zmq.ZMQError:
            public = ""
        key = self._keys.get(public)
        if key is None:
            return self._bar(f"key {public} is not authorized any more")
        frame = message.bytes
        if frame != PROBE and (len(frame) < 2 or frame[1] not in MAY_SAY[key.role]):
            kind = Kind(frame[1]).name if len(frame) > 1 and frame[1] in set(Kind) else "no message"
            return self._bar(f"key {key.name} is a {key.role}'s, which may not send {kind}")
        if self._key_of.get(peer) != public:
            if peer in self._key_of:
                return self._bar(f"key {key.name} took the place of another's connection")
            if len(self._key_of) >= MAX_PEERS:
                del self._key_of[next(iter(self._key_of))]
            self._key_of[peer] = public
        return False

    def check(self, peer: bytes) -> None:
        """Before something is sent. Raises ZMQError (EAGAIN: out, but not dead) for a revoked key's peer."""
        public = self._key_of.get(peer)
        if public is not None and public not in self._keys:
            raise zmq.ZMQError(zmq.EAGAIN, "its key is revoked")

    def forget(self, peer: bytes) -> None:
        """It has no connection any more."""
        self._key_of.pop(peer, None)

    def _bar(self, why: str) -> bool:
        if (held := self._barred.passes(time.monotonic())) is not None:
            log.warning("message dropped held_back=%s: %s", held, why)
        return True

    # --- the folder ----------------------------------------------------------------------------

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)
        self._read()

    def _read(self) -> None:
        self._read_at_s = time.monotonic()
        before = self._keys
        try:
            self._keys, errors = self._folder.read()
        except Exception as error:  # whatever it is: nobody is let in by what can't be read
            self._trouble = str(error) if isinstance(error, KeyFileError) else repr(error)
            if (held := self._troubles.passes(self._read_at_s)) is not None:
                log.error("nobody new is let in held_back=%s: %s", held, self._trouble)
            return
        if self._trouble:
            log.info("keys can be read again folder=%s", self._folder.folder)
            self._trouble = ""
        if errors != self._errors:
            for fault in errors:
                log.error("a key is passed over: %s", fault)
            self._errors = errors
        if before != self._keys:
            self._tell_changes(before)

    def _tell_changes(self, before: dict[str, PublicKey]) -> None:
        for public, key in self._keys.items():
            if before.get(public) != key:
                log.info("key=%s role=%s allowed public=%s", key.name, key.role, public)
        gone = [key for public, key in before.items() if public not in self._keys]
        for key in gone:
            log.warning("key=%s role=%s revoked public=%s", key.name, key.role, key.public)
        if gone:
            self._revoked()

    # --- the authenticator ---------------------------------------------------------------------

    def _answer_all(self) -> None:
        """To each handshake that asks. What fails here closes the door for everybody, and is said."""
        zap = self._zap
        try:
            while zap is not None and cast(int, zap.getsockopt(zmq.EVENTS)) & _POLLIN:
                peer, empty, _, request, *rest = zap.recv_multipart(_NOBLOCK)
                code, text, public = self._decide(rest)
                zap.send_multipart((peer, empty, ZAP_VERSION, request, code, text, public, b""), _NOBLOCK)
        except Exception:
            log.exception("the authenticator failed: nobody new is let in until this process is restarted")
            self._close_zap()

    def _decide(self, request: list[bytes]) -> tuple[bytes, bytes, bytes]:
        """Status code, its text, and whose the connection is."""
        domain, address, _, mechanism, *credentials = request
        if time.monotonic() - self._read_at_s > FRESH_S:
            self._read()
        public = ""
        if domain == DOMAIN and mechanism == b"CURVE" and len(credentials) == 1:
            public = z85.encode(credentials[0]).decode()
        if self._trouble:
            self._refuse(address, f"key {public}, as the keys can't be read")
            return b"500", b"keys can't be read", b""
        if public not in self._keys:
            self._refuse(address, f"key {public} is not authorized")
            return b"400", b"not authorized", b""
        return b"200", b"OK", public.encode()

    def _refuse(self, address: bytes, why: str) -> None:
        if (held := self._refusals.passes(time.monotonic())) is not None:
            log.warning("refused peer=%s held_back=%s: %s", address.decode("ascii", "replace"), held, why)


MECHANISM_MISMATCH: Final = 0x11000002
CRYPTOGRAPHIC: Final = 0x11000001
"""Of `zmq.h`: ZMQ_PROTOCOL_ERROR_ZMTP_…"""

MAX_ACCEPTED: Final = 10_000
"""Descriptors whose peers are remembered."""


class Strangers:
    """Those that never came so far as to show a key, told from the events of the router's monitor."""

    def __init__(self) -> None:
        self._peers: dict[int, str] = {}
        """By descriptor: a failed handshake is told without its peer, its end with the descriptor."""
        self._failed = ""
        self._warnings = Throttle(WARN_EVERY_S)

    def see(self, event: bytes) -> bool:
        """Whether it is the end of a connection."""
        kind, value = struct.unpack("=HI", event)
        if kind == zmq.EVENT_ACCEPTED:
            if len(self._peers) < MAX_ACCEPTED:
                self._peers[value] = _peer_of(value)
        elif kind == zmq.EVENT_DISCONNECTED:
            peer, why, self._failed = self._peers.pop(value, "unknown"), self._failed, ""
            if why and (held := self._warnings.passes(time.monotonic())) is not None:
                log.warning("refused peer=%s held_back=%s: %s", peer, held, why)
        elif value == MECHANISM_MISMATCH:
            self._failed = "it has no CURVE"
        elif value == CRYPTOGRAPHIC:
            self._failed = "it was given another key than this balancer's (--curve-server-key)"
        elif kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            self._failed = f"it breaks the protocol ({value:#x})"
        else:
            self._failed = "it did not finish the handshake, or there was nobody to ask about its key"
        return bool(kind == zmq.EVENT_DISCONNECTED)


def _peer_of(fd: int) -> str:
    """Who is at the other end; should the connection be over already, nobody, or whoever has its number."""
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            return str(sock.getpeername()[0])
    except (OSError, IndexError):
        return "unknown"
