"""A client that speaks ZeroMQ: `ZmqClient("127.0.0.1:2000").call("GetCost", cd)`.

For programs beside the cluster that send many requests at once, such as bulk rating: no JSON-RPC envelopes,
one message for all calls of a `call_many`. It asks a balancer's router port, in the messages that balancers
and raters exchange (`common.wire`), as `ratel gateway` does.

**Several balancers.** Calls go to the one with the most room. What one that fell silent had goes to another,
in the same names: a change is made once, whoever carries it out. A call that is not answered in time
raises DeadlineExceeded, and the outcome of a change is unknown then; give it a `RequestId` to ask again.

For one thread; a child of a fork makes its own.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from types import TracebackType
from typing import Any, Final

import msgspec
import zmq

from common.addresses import parse_address
from common.clock import monotonic_us
from common.errors import (
    DeadlineExceeded,
    InvalidParams,
    MethodNotFound,
    Overloaded,
    RatelError,
    ShuttingDown,
    decode_error,
)
from common.methods import BY_NAME, BY_RPC_NAME
from common.wire import (
    HEARTBEAT_MS,
    MISSED_BEATS,
    PROTOCOL,
    Kind,
    WireError,
    WorkItem,
    decode,
    encode_beat,
    encode_drained,
    encode_join,
    encode_work,
)

DEFAULT_TIMEOUT_S: Final = 10.0
SILENCE_US: Final = HEARTBEAT_MS * MISSED_BEATS * 1000
RECONNECT_MS: Final = 50
LINGER_MS: Final = 200

NOTHING_DONE: Final = (DeadlineExceeded.code, Overloaded.code, ShuttingDown.code)
"""Errors that may say that nothing was done, which is a balancer's word about its own attempt only."""

_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode_result = msgspec.json.Decoder(float_hook=Decimal).decode


class _Balancer:
    """One connection, and what is known of who is at its end."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, life: str) -> None:
        parsed = parse_address(address)
        self.credit = 0
        self.heard_us = 0
        self.held: dict[int, WorkItem] = {}
        """What it was given and has not answered."""
        self.socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, f"client-{life}".encode())
        self.socket.setsockopt(zmq.IMMEDIATE, 1)  # no queue for one that is away
        self.socket.setsockopt(zmq.IPV6, ":" in parsed.host)
        self.socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        self.socket.setsockopt(zmq.LINGER, LINGER_MS)
        self.socket.connect(f"tcp://{parsed}")

    @property
    def room(self) -> int:
        return self.credit - len(self.held)

    def send(self, frame: bytes) -> bool:
        try:
            self.socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def drop(self) -> list[WorkItem]:
        """It is gone, or as good as: nothing more is sent there until it is heard. What it held."""
        self.credit = 0
        held, self.held = list(self.held.values()), {}
        return held


class ZmqClient:
    """`balancers` are HOST:PORT of router ports, or one text with commas between them. Times in seconds."""

    def __init__(self, balancers: str | Sequence[str], *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        addresses = balancers.split(",") if isinstance(balancers, str) else list(balancers)
        if not addresses:
            raise ValueError("no balancer to ask")
        self._timeout_s = timeout_s
        self._life = secrets.token_hex(8)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._balancers = [_Balancer(self._context, address.strip(), self._life) for address in addresses]
        self._poller = zmq.Poller()
        for balancer in self._balancers:
            self._poller.register(balancer.socket, zmq.POLLIN)
        self._last_seq = 0
        self._next_beat_us = 0
        self._answers: dict[int, Any | RatelError] = {}
        self._doubtful: set[int] = set()
        """Calls that a balancer had which then was gone: it may have carried them out."""

    def __enter__(self) -> ZmqClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for balancer in self._balancers:
            balancer.socket.close()
        self._context.term()

    def call(self, method: str, descriptor: Mapping[str, Any] | None = None) -> Any:
        """The result of one call, or its error raised: see `common.client.JSONClient.call`."""
        [result] = self.call_many([(method, descriptor or {})])
        if isinstance(result, RatelError):
            raise result
        return result

    def call_many(self, calls: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Any | RatelError]:
        """All the results in order; errors stand in their places. All of them have the same time."""
        deadline_us = monotonic_us() + int(self._timeout_s * 1_000_000)
        first = self._last_seq + 1
        waiting: list[WorkItem] = []
        for method, descriptor in calls:
            self._last_seq += 1
            item = self._item(method, descriptor, deadline_us)
            if isinstance(item, RatelError):
                self._answers[self._last_seq] = item
            else:
                waiting.append(item)
        self._carry_out(waiting, deadline_us)
        self._doubtful.clear()
        return [self._answers.pop(seq) for seq in range(first, self._last_seq + 1)]

    def _item(self, method: str, descriptor: Mapping[str, Any], deadline_us: int) -> WorkItem | RatelError:
        known = BY_NAME.get(method) or BY_RPC_NAME.get(method)
        if known is None:
            return MethodNotFound(method=method)
        try:
            params = _encode(descriptor)
        except (TypeError, ValueError, RecursionError) as error:
            return InvalidParams(field="params", detail=f"can't be written as JSON: {error}")
        return WorkItem(self._last_seq, known.name, params, "", deadline_us)

    def _carry_out(self, waiting: list[WorkItem], deadline_us: int) -> None:
        open_calls = {item.seq for item in waiting}
        while open_calls:
            now_us = monotonic_us()
            if now_us >= deadline_us:
                break
            if now_us >= self._next_beat_us:
                self._beat(now_us, waiting)
            self._give(waiting, now_us)
            until_us = min(deadline_us, self._next_beat_us)
            for sock, _ in self._poller.poll(max(1, (until_us - monotonic_us()) // 1000)):
                balancer = next(one for one in self._balancers if one.socket is sock)
                self._receive(balancer, waiting)
            open_calls -= self._answers.keys()
        for balancer in self._balancers:
            for seq in open_calls:
                balancer.held.pop(seq, None)
        detail = f"no answer within {self._timeout_s:g} s; whether it was carried out is unknown"
        self._answers |= {seq: DeadlineExceeded(detail=detail) for seq in open_calls}

    def _beat(self, now_us: int, waiting: list[WorkItem]) -> None:
        self._next_beat_us = now_us + HEARTBEAT_MS * 1000
        for balancer in self._balancers:
            reached = balancer.send(encode_join(self._life)) and balancer.send(
                encode_beat(self._life, now_us)
            )
            if not reached or now_us - balancer.heard_us >= SILENCE_US:
                waiting += self._drop(balancer)

    def _drop(self, balancer: _Balancer) -> list[WorkItem]:
        held = balancer.drop()
        self._doubtful.update(item.seq for item in held)
        return held

    def _give(self, waiting: list[WorkItem], now_us: int) -> None:
        while waiting:
            balancer = max(self._balancers, key=lambda one: one.room)
            if balancer.room <= 0:
                return
            items = waiting[: balancer.room]
            if balancer.send(encode_work(self._life, now_us, items)):
                balancer.held |= {item.seq: item for item in items}
                del waiting[: len(items)]
            else:
                waiting += self._drop(balancer)

    def _receive(self, balancer: _Balancer, waiting: list[WorkItem]) -> None:
        try:
            kind, fields = decode(balancer.socket.recv(zmq.NOBLOCK))
        except (zmq.Again, WireError):
            return
        balancer.heard_us = monotonic_us()
        if kind is Kind.STATE:
            protocol, _, credit, _ = fields
            balancer.credit = credit if protocol == PROTOCOL else 0
        elif kind is Kind.DONE and fields[0] == self._life:
            for seq, code, body, _ in fields[1]:
                if balancer.held.pop(seq, None) is not None:
                    self._answers[seq] = self._error(seq, code, body) if code else _decode_result(body)
        elif kind is Kind.LEAVE:
            balancer.credit = 0
            balancer.send(encode_drained(self._life))
        elif kind is Kind.GOODBYE:
            waiting += self._drop(balancer)

    def _error(self, seq: int, code: int, body: bytes) -> RatelError:
        error = decode_error(body)
        if code in NOTHING_DONE and seq in self._doubtful:
            detail = f"an earlier attempt was not answered, a later one was refused ({error.name})"
            return DeadlineExceeded(detail=f"{detail}; whether it was carried out is unknown")
        return error
