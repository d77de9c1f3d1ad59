"""One rater's connection to one balancer: a DEALER socket, its clock difference, its replies."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import zmq

from common.addresses import Address
from common.clock import ClockDifference, monotonic_us
from common.dealer import Dealer, DealerKeys
from common.methods import BY_NAME
from common.security.scopes import Bound, unbind
from common.wire import (
    Kind,
    ReplyRow,
    WireError,
    decode,
    done_frames,
    encode_about,
    encode_goodbye,
    encode_leave,
    encode_state,
)
from rater.work.jobs import Job, Outcome

log = logging.getLogger(__name__)

MAX_FRAMES_A_TURN: Final = 64
"""Frames taken from one link before other links get their turn."""

GOODBYE_LINGER_MS: Final = 1000
"""How long the last replies may take to leave the process."""


class Peer:
    """One life of a balancer process: where answers to its requests go.

    Sequence numbers belong to one life: what a restarted balancer is told must never be an answer
    to its predecessor's requests.
    """

    def __init__(self, balancer_id: str, sent_us: int, now_us: int) -> None:
        self.life = balancer_id
        self.clock_difference = ClockDifference(sent_us, now_us)
        self.replies: list[ReplyRow] = []

    def reply(self, seq: int, outcome: Outcome) -> None:
        self.replies.append((seq, outcome.code, outcome.body, outcome.replayed))


def _bound_job(peer: Peer, seq: int, bound: Bound, params: bytes, key: str, deadline_us: int) -> Job:
    """For a name that is more than that of a method, or none."""
    return Job(peer, seq, bound[0], params, key, deadline_us, False, bound[1])


class Link:
    """A link sends nothing while the balancer is away: `ZMQ_IMMEDIATE` keeps no queue for it."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: Address,
        identity: str,
        credit: int,
        clock_us: Callable[[], int] = monotonic_us,
        keys: DealerKeys | None = None,
    ) -> None:
        self.endpoint = f"tcp://{address}"
        self.drained = False
        self.is_new = False
        """Since the last beat, another balancer, or another life of it, was heard."""
        self._credit = credit
        self._clock_us = clock_us
        self._peer: Peer | None = None
        self.seen_us = 0
        """When the balancer was heard last; 0 is never."""
        # Unbounded as the credit bounds it: replies never outnumber work.
        self._dealer = Dealer(
            context, address, identity, keys, linger_ms=GOODBYE_LINGER_MS, high_water_frames=0
        )
        self.socket = self._dealer.socket

    @property
    def joined(self) -> bool:
        """Whether the balancer was ever heard."""
        return self._peer is not None

    def receive(self) -> list[Job]:
        """The jobs that have arrived, a bounded number of frames of them."""
        jobs: list[Job] = []
        for _ in range(MAX_FRAMES_A_TURN):
            try:
                frame = self.socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            try:
                kind, fields = decode(frame)
            except WireError as error:
                log.warning("balancer=%s bad message: %s", self.endpoint, error)
                continue
            if kind is Kind.WORK:
                peer = self._see(fields[0], fields[1])
                difference_us = peer.clock_difference.us
                jobs += [
                    Job(peer, seq, known, params, key, deadline_us + difference_us)
                    if (known := BY_NAME.get(method))
                    else _bound_job(peer, seq, unbind(method), params, key, deadline_us + difference_us)
                    for seq, method, params, key, deadline_us in fields[2]
                ]
            elif kind is Kind.BEAT:
                self._see(fields[0], fields[1])
            elif kind is Kind.DRAINED:
                self.drained = True
        return jobs

    def _see(self, balancer_id: str, sent_us: int) -> Peer:
        self.seen_us = now_us = (
            self._clock_us()
        )  # after the receipt: a pause before it must not be taken for lead
        if self._peer is None or self._peer.life != balancer_id:
            log.info("joined balancer=%s id=%s", self.endpoint, balancer_id)
            self._peer = Peer(balancer_id, sent_us, now_us)
            self.is_new = True
        else:
            self._peer.clock_difference.see(sent_us, now_us)
        return self._peer

    def flush(self, busy_us: int = 0) -> None:
        """Send the replies of this turn, which took so long: one message, or several where they are large."""
        if self._peer is None or not self._peer.replies:
            return
        for frame in done_frames(self._peer.life, self._peer.replies, busy_us):
            self._send(frame)
        self._peer.replies.clear()

    def beat(self, name: str, tariff_epoch: int, *, takes_work: bool = True) -> None:
        """A heartbeat. A rater that can do nothing now offers no credit, and so gets no new work."""
        self.is_new = False
        self._dealer.look()
        self._send(encode_state(name, self._credit if takes_work else 0, tariff_epoch))

    def tell(self, about: bytes) -> None:
        """What this rater says of itself, see `common.about`."""
        self._send(encode_about(about))

    def leave(self) -> None:
        # A balancer that is away has nothing more to send: there is nobody to wait for.
        self.drained = not self._send(encode_leave())

    def goodbye(self) -> None:
        self.flush()
        self._send(encode_goodbye())

    def close(self) -> None:
        self._dealer.close()

    def _send(self, frame: bytes) -> bool:
        """Whether it went out. A balancer that is away and comes back has no use for old messages:
        what it still waits for, it asks for again, under the same tokens."""
        try:
            self.socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            log.debug("balancer=%s is away, a message is dropped", self.endpoint)
            return False
        return True
