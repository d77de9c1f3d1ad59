"""One client of a rater's own JSON-RPC port: what it may do next, by what is unanswered and unsent.

It holds the socket, but `rater.direct` reads, writes and closes it.
"""

from __future__ import annotations

import socket
from typing import Final

import zmq

from common.errors import with_log_id
from common.rpc.jsonrpc import Session
from common.security.keyring import Keyring
from common.security.visitor import Visitor
from common.wire import TOKEN_KEY
from rater.work.jobs import Outcome

MAX_IN_FLIGHT: Final = 256
"""Unanswered calls of one connection, after which it is not read until some are answered: a deep
pipeline for one, and so few that some dozens of greedy clients don't fill the queue of all."""

MAX_UNSENT_BYTES: Final = 1024 * 1024
"""Answers waiting for a client to read them, after which its requests are not read either."""


class Connection:
    """One client."""

    def __init__(self, sock: socket.socket, life: str, keyring: Keyring | None) -> None:
        self.socket = sock
        self.fd = sock.fileno()
        self.life = life
        self.session = Session()
        self.visitor = Visitor(self.session, keyring)
        self.unsent = bytearray()
        self.eof = False
        """The client sends no more."""
        self.ended = False
        """Nothing more is read: answer what is in flight, then close."""
        self.stuck_since_us: int | None = None
        self.unfinished_since_us: int | None = None
        self.linger_until_us: int | None = None
        """Set once this side has sent its EOF."""
        self.events: int = zmq.POLLIN

    def reply(self, seq: int, outcome: Outcome) -> None:
        self.visitor.answered(seq)
        if outcome.code:
            self.session.fail(seq, with_log_id(outcome.body, f"{TOKEN_KEY}{self.life}-{seq}"))
        else:
            self.session.answer(seq, outcome.body)

    @property
    def may_take(self) -> bool:
        """Further calls are within the bounds of what one client may have."""
        return self.session.in_flight < MAX_IN_FLIGHT and len(self.unsent) < MAX_UNSENT_BYTES

    @property
    def may_go_on(self) -> bool:
        return self.session.more and self.may_take

    @property
    def may_read(self) -> bool:
        session = self.session
        return not (self.ended or session.closing or session.more) and self.may_take

    @property
    def idle(self) -> bool:
        return not (self.session.in_flight or self.session.more or self.unsent)

    @property
    def done(self) -> bool:
        """Nothing more can come of it."""
        return (self.ended or self.session.closing) and self.idle
