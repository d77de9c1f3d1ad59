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
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec
import zmq

from common.addresses import parse_address
from common.clock import monotonic_us
from common.dealer import Dealer, DealerKeys
from common.errors import (
    DeadlineExceeded,
    InvalidParams,
    MessageTooLarge,
    MethodNotFound,
    Overloaded,
    RatelError,
    ShuttingDown,
    decode_error,
)
from common.methods import BY_NAME, BY_RPC_NAME
from common.security.curve import Role, read_public, read_secret
from common.wire import (
    HEARTBEAT_MS,
    MAX_FRAME_BYTES,
    MAX_PARAMS_BYTES,
    PROTOCOL,
    SILENCE_US,
    Kind,
    WireError,
    WorkItem,
    decode,
    encode_beat,
    encode_drained,
    encode_join,
    encode_work,
    fitting,
)

DEFAULT_TIMEOUT_S: Final = 10.0

_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode_result = msgspec.json.Decoder(float_hook=Decimal).decode


class _Balancer:
    """One connection, and what is known of who is at its end."""

    def __init__(self, dealer: Dealer) -> None:
        self.name = ""
        """As it says itself, another one in each of its lives."""
        self.credit = 0
        self.heard_us = 0
        self.held: dict[int, WorkItem] = {}
        """What it was given and has not answered."""
        self.dealer = dealer
        self.socket = dealer.socket

    @property
    def room(self) -> int:
        return self.credit - len(self.held)

    def send(self, frame: bytes) -> bool:
        try:
            self.socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True


def _keys(key_file: str | Path | None, server_key_file: str | Path | None) -> DealerKeys | None:
    if key_file is None and server_key_file is None:
        return None
    if key_file is None or server_key_file is None:
        raise ValueError("key_file and server_key_file go together")
    server = read_public(Path(server_key_file), Role.BALANCER)
    return DealerKeys(read_secret(Path(key_file), Role.CLIENT), server.public)


class ZmqClient:
    """`balancers` are HOST:PORT of router ports, or one text with commas between them. Times in seconds.

    Where balancers want keys, `key_file` is a client's secret key of `ratel keys`, and `server_key_file` the
    balancers' public one. Raises KeyFileError when these are not as they must be.
    """

    def __init__(
        self,
        balancers: str | Sequence[str],
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        key_file: str | Path | None = None,
        server_key_file: str | Path | None = None,
    ) -> None:
        addresses = balancers.split(",") if isinstance(balancers, str) else list(balancers)
        if not addresses:
            raise ValueError("no balancer to ask")
        parsed = [parse_address(address.strip()) for address in addresses]
        keys = _keys(key_file, server_key_file)
        self._timeout_s = timeout_s
        self._life = secrets.token_hex(8)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._balancers = [  # one that has two names here must take them for two clients
            _Balancer(Dealer(self._context, address, f"client-{self._life}-{place}", keys))
            for place, address in enumerate(parsed)
        ]
        self._poller = zmq.Poller()
        for balancer in self._balancers:
            self._poller.register(balancer.socket, zmq.POLLIN)
        self._last_seq = 0
        self._next_beat_us = 0
        self._answers: dict[int, Any | RatelError] = {}
        self._asked_again: set[int] = set()
        """Open calls that a balancer was given which did not answer: it may have carried them out."""

    def __enter__(self) -> ZmqClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for balancer in self._balancers:
            balancer.dealer.close()
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
        return [self._answers.pop(seq) for seq in range(first, self._last_seq + 1)]

    def _item(self, method: str, descriptor: Mapping[str, Any], deadline_us: int) -> WorkItem | RatelError:
        known = BY_NAME.get(method) or BY_RPC_NAME.get(method)
        if known is None:
            return MethodNotFound(method=method)
        try:
            params = _encode(descriptor)
        except (TypeError, ValueError, RecursionError) as error:
            return InvalidParams(field="params", detail=f"can't be written as JSON: {error}")
        if len(params) > MAX_PARAMS_BYTES:
            return MessageTooLarge(limit_bytes=MAX_PARAMS_BYTES)
        return WorkItem(self._last_seq, known.name, params, "", deadline_us)

    def _carry_out(self, waiting: list[WorkItem], deadline_us: int) -> None:
        open_calls = {item.seq for item in waiting}
        self._asked_again.clear()
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
                open_calls.difference_update(self._receive(balancer, waiting))
        for balancer in self._balancers:
            for seq in open_calls:
                balancer.held.pop(seq, None)
        detail = f"no answer within {self._timeout_s:g} s; whether it was carried out is unknown"
        self._answers |= {seq: DeadlineExceeded(detail=detail) for seq in open_calls}

    def _beat(self, now_us: int, waiting: list[WorkItem]) -> None:
        self._next_beat_us = now_us + HEARTBEAT_MS * 1000
        for balancer in self._balancers:
            balancer.dealer.look()
            reached = balancer.send(encode_join(self._life)) and balancer.send(
                encode_beat(self._life, now_us)
            )
            if not reached or now_us - balancer.heard_us >= SILENCE_US:
                self._drop(balancer, waiting)

    def _drop(self, balancer: _Balancer, waiting: list[WorkItem]) -> None:
        """It is gone, or as good as: it gets nothing more until it is heard, and others what it held."""
        balancer.credit = 0
        self._asked_again |= balancer.held.keys()
        waiting += balancer.held.values()
        balancer.held = {}

    def _give(self, waiting: list[WorkItem], now_us: int) -> None:
        while waiting:
            balancer = max(self._balancers, key=lambda one: one.room)
            if balancer.room <= 0:
                return
            items = waiting[: balancer.room]
            items = items[: fitting(items, MAX_FRAME_BYTES)]
            if balancer.send(encode_work(self._life, now_us, items)):
                balancer.held |= {item.seq: item for item in items}
                del waiting[: len(items)]
            else:
                self._drop(balancer, waiting)

    def _receive(self, balancer: _Balancer, waiting: list[WorkItem]) -> list[int]:
        """Take a message; the numbers of the calls that it answers."""
        answered: list[int] = []
        try:
            kind, fields = decode(balancer.socket.recv(zmq.NOBLOCK))
        except (zmq.Again, WireError):
            return answered
        balancer.heard_us = monotonic_us()
        if kind is Kind.STATE:
            protocol, name, credit, _ = fields
            if balancer.name not in ("", name):  # started again, before its end was noticed
                self._drop(balancer, waiting)
            balancer.name = name
            balancer.credit = credit if protocol == PROTOCOL else 0
        elif kind is Kind.DONE and fields[0] == self._life:
            for seq, code, body, _ in fields[1]:
                if balancer.held.pop(seq, None) is not None:
                    self._answers[seq] = self._error(seq, body) if code else _decode_result(body)
                    answered.append(seq)
        elif kind is Kind.LEAVE:
            balancer.credit = 0
            balancer.send(encode_drained(self._life))
        elif kind is Kind.GOODBYE:
            self._drop(balancer, waiting)
        elif kind is Kind.BEAT:  # the connection is new, and what was to come by the one before is lost
            self._drop(balancer, waiting)
            balancer.send(encode_join(self._life))
        return answered

    def _error(self, seq: int, body: bytes) -> RatelError:
        """Who refuses a call can't know what a balancer did that had it before."""
        error = decode_error(body)
        if seq in self._asked_again and isinstance(error, DeadlineExceeded | Overloaded | ShuttingDown):
            detail = f"asked again, the answer is {error.name}; whether it was carried out is unknown"
            return DeadlineExceeded(detail=detail)
        return error
