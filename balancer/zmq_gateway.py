"""Requests over ZeroMQ: gateways that run as processes of their own, and programs that speak the messages.

To such a client this balancer is what a rater is to a balancer: it says its STATE, takes WORK and answers
DONE, on the same ROUTER and in the same messages (`common.wire`). So a client's own dispatcher gives each
request to a balancer, and to another one when that is gone; the key that goes with it makes it once.

A client is known from its JOIN on, and forgotten when its connection is gone or it has been silent for
MISSED_BEATS: what it asked for is then still done, and the answers are dropped. One that is not known here,
and does not know that (this process was restarted, its connection ended for a moment), is told GOODBYE: it
asks again for what it has not been answered, once it has joined.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, Final

from balancer.actions import Request
from balancer.router import Router
from common.clock import ClockDifference
from common.errors import InvalidParams, MessageTooLarge, MethodNotFound, RatelError, encode_error
from common.methods import BY_NAME
from common.wire import (
    CLIENT_KEY,
    MAX_ID_CHARS,
    MAX_KEY_CHARS,
    MAX_METHOD_CHARS,
    MAX_PARAMS_BYTES,
    PROTOCOL,
    SILENCE_US,
    TOKEN_KEY,
    Kind,
    ReplyRow,
    done_frames,
    encode_goodbye,
    encode_leave,
    encode_state,
)

log = logging.getLogger(__name__)

MAX_CLIENTS: Final = 10_000
"""Each costs a heartbeat; as many as there may be connections of the other gateways."""


class Client:
    """One client that has joined."""

    def __init__(self, client_id: bytes, now_us: int) -> None:
        self.id = client_id
        self.life = ""
        """The id that it calls itself by, new with each of its starts."""
        self.clock: ClockDifference | None = None
        self.seen_us = now_us
        self.replies: list[ReplyRow] = []


class ZmqGateway:
    """Takes what clients send to a router's socket. `name` is what the balancer is called in their logs."""

    def __init__(self, router: Router, name: str, credit: int) -> None:
        self._router = router
        self._name = name
        self._credit = credit
        """Requests that each client may have in flight here: the real bound is what the router admits."""
        self._clients: dict[bytes, Client] = {}
        self._to_write: list[Client] = []
        self._leaving = False
        router.clients = self

    def receive(self, client_id: bytes, kind: Kind, fields: list[Any], now_us: int) -> None:
        client = self._clients.get(client_id)
        if kind is Kind.JOIN:
            self._join(client_id, client, fields, now_us)
            return
        if client is None or client.life != fields[0]:
            self._router.complain(client_id, f"a {kind.name} of a client that has not joined")
            if kind is not Kind.DRAINED:
                self._router.send_to_client(client_id, encode_goodbye())
            return
        client.seen_us = now_us
        if kind is Kind.DRAINED:
            return
        if client.clock is None:
            client.clock = ClockDifference(fields[1], now_us)
        else:
            client.clock.see(fields[1], now_us)
        if kind is Kind.WORK and len(fields[2]) > self._credit:
            self._router.complain(
                client_id, f"{len(fields[2])} requests at once, its credit is {self._credit}"
            )
        elif kind is Kind.WORK:
            for item in fields[2]:
                self._submit(client, client.clock.us, *item)

    def _join(self, client_id: bytes, client: Client | None, fields: list[Any], now_us: int) -> None:
        protocol, life = fields
        if protocol != PROTOCOL:
            self._router.complain(client_id, f"protocol {protocol}, this process speaks {PROTOCOL}")
            return
        if not 0 < len(life) <= MAX_ID_CHARS:
            self._router.complain(client_id, f"an id of {len(life)} characters, the limit is {MAX_ID_CHARS}")
            return
        if client is None or client.life != life:
            if client is None and len(self._clients) >= MAX_CLIENTS:
                self._router.complain(client_id, f"more than {MAX_CLIENTS} clients")
                return
            log.info("client=%s joins", life)
            client = self._clients[client_id] = Client(client_id, now_us)
            client.life = life
            self._tell(client, self._state())
        client.seen_us = now_us

    def _submit(
        self,
        client: Client,
        difference_us: int,
        seq: int,
        method_name: str,
        params: bytes,
        key: str,
        deadline_us: int,
    ) -> None:
        error: RatelError | None = None
        if len(method_name) > MAX_METHOD_CHARS:
            error = MethodNotFound(method=method_name[:MAX_METHOD_CHARS])
        elif len(params) > MAX_PARAMS_BYTES:
            error = MessageTooLarge(limit_bytes=MAX_PARAMS_BYTES)
        elif len(key) > MAX_KEY_CHARS or (key and not key.startswith((CLIENT_KEY, TOKEN_KEY))):
            error = InvalidParams(field="key", detail=f"expected {CLIENT_KEY}… or {TOKEN_KEY}…, or none")
        if error is not None:
            self._router.refused[error.name] += 1
            self._answer(client, seq, error.code, encode_error(error), False)
            return
        method = BY_NAME.get(method_name)
        if not key and (method is None or method.mutates):  # a rater may know more methods than this process
            key = f"{TOKEN_KEY}{client.life}-{seq}"
        until_us = deadline_us + difference_us
        on_answer = partial(self._answer, client, seq)
        self._router.submit_request(
            Request(method_name, params, key, on_answer, work_deadline_us=max(until_us, 1))
        )

    def _answer(self, client: Client, seq: int, code: int, body: bytes, replayed: bool) -> None:
        if not client.replies:
            self._to_write.append(client)
        client.replies.append((seq, code, body, replayed))

    def write(self) -> None:
        if not self._to_write:
            return
        clients, self._to_write = self._to_write, []
        for client in clients:
            replies, client.replies = client.replies, []
            for frame in done_frames(client.life, replies):
                if not self._router.send_to_client(client.id, frame):
                    self._forget(client, "gone")
                    break

    # --- heartbeats, and the end -------------------------------------------------------------

    def beat(self, now_us: int) -> None:
        state = self._state()
        for client in list(self._clients.values()):
            if now_us - client.seen_us >= SILENCE_US:
                self._forget(client, "silent")
            else:
                self._tell(client, state)

    def leave(self) -> None:
        """Ask all clients to send nothing more."""
        self._leaving = True
        for client in list(self._clients.values()):
            self._router.send_to_client(client.id, encode_leave())

    async def drain(self, timeout_s: float) -> None:
        """Wait until all that clients asked for is answered, and take leave."""
        await self._router.drain(timeout_s)
        self.write()
        for client in list(self._clients.values()):
            self._router.send_to_client(client.id, encode_goodbye())

    def _state(self) -> bytes:
        raters, tariff_epoch = self._router.readiness
        return encode_state(self._name, self._credit if raters and not self._leaving else 0, tariff_epoch)

    def _tell(self, client: Client, state: bytes) -> None:
        if not self._router.send_to_client(client.id, state):
            self._forget(client, "gone")

    def _forget(self, client: Client, why: str) -> None:
        if self._clients.get(client.id) is client:
            log.info("client=%s is %s", client.life, why)
            del self._clients[client.id]
