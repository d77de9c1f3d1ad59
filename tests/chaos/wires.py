"""The clients' connections: pipelined JSON-RPC and HTTP, as lean as they can be, and easily dropped."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from typing import Final, NamedTuple, Protocol

import msgspec

from common.addresses import Address
from common.errors import BY_CODE, CallerError
from tests.chaos.books import now_us
from tests.chaos.workload import DIALLED, MICROS, TENANT, Ask

TIMEOUT_US: Final = 12_000_000
"""The balancer's deadline, and more for one that is stopped meanwhile."""
SWEEP_S: Final = 0.5
CONNECT_TIMEOUT_S: Final = 2.0
OPEN: Final = -1

CERTAIN: Final = ("overloaded", "shutting_down")
CERTAIN_WORDS: Final = ("nothing was done", "changed nothing")
"""Errors that say that nothing was done, which then has to be true."""


class Answer(NamedTuple):
    sent_us: int
    code: int
    """0, a refusal's, or OPEN."""
    text: str
    """The result, the refusal's message, or why it is open."""
    marked: bool | None = None
    certain: bool = False
    """It is open, and certain that nothing was done."""


class _Error(msgspec.Struct):
    code: int
    message: str


class _Reply(msgspec.Struct):
    id: int
    result: msgspec.Raw = msgspec.Raw()
    error: _Error | None = None


class _HttpError(msgspec.Struct):
    error: _Error


_decode = msgspec.json.Decoder(_Reply).decode
_decode_http = msgspec.json.Decoder(_HttpError).decode
Waiting = tuple[int, "asyncio.Future[Answer]"]
"""When it was sent, and who waits for the answer."""


def number(micros: int) -> str:
    """A quantity as JSON."""
    whole, part = divmod(abs(micros), MICROS)
    return f"{'-' if micros < 0 else ''}{whole}" + (f".{part:06}".rstrip("0") if part else "")


def of_error(sent_us: int, code: int, message: str, marked: bool | None = None) -> Answer:
    kind = BY_CODE.get(code)
    if kind is not None and issubclass(kind, CallerError):
        return Answer(sent_us, code, message, marked)
    name = kind.name if kind else f"code {code}"
    certain = name in CERTAIN or any(words in message for words in CERTAIN_WORDS)
    return Answer(sent_us, OPEN, f"{name}: {message}", None, certain)


def _of_error(sent_us: int, error: _Error, marked: bool | None = None) -> Answer:
    return of_error(sent_us, error.code, error.message, marked)


class Wire(asyncio.Protocol):
    """One connection. What it owes when it ends is answered as open."""

    _transport: asyncio.Transport | None = None
    _buffer = b""

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._take(self._buffer + data if self._buffer else data)

    def connection_lost(self, exc: Exception | None) -> None:
        for sent_us, future in self._owed():
            if not future.done():
                future.set_result(Answer(sent_us, OPEN, "connection_lost"))

    def reset(self) -> None:
        """End it at once, without a word."""
        if self._transport is not None and self.usable:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def check(self) -> None:
        """Give up a connection that owes an answer for too long."""
        oldest_us = next(iter(self._owed()), (None,))[0]
        if oldest_us is not None and now_us() - oldest_us > TIMEOUT_US:
            self.reset()

    def send(self, ask: Ask) -> asyncio.Future[Answer]:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        message = self._encode(ask, (now_us(), future))
        assert self._transport is not None
        self._transport.write(message)
        return future

    # --- what differs ----------------------------------------------------------------------------

    def _encode(self, ask: Ask, waiting: Waiting) -> bytes:
        raise NotImplementedError

    def _take(self, data: bytes) -> bytes:
        """Settle what is complete; what is left over."""
        raise NotImplementedError

    def _owed(self) -> list[Waiting]:
        """Oldest first."""
        raise NotImplementedError


class JsonWire(Wire):
    def __init__(self) -> None:
        self._waiting: dict[int, Waiting] = {}
        self._last_id = 0

    def _owed(self) -> list[Waiting]:
        return list(self._waiting.values())

    def _encode(self, ask: Ask, waiting: Waiting) -> bytes:
        self._last_id += 1
        self._waiting[self._last_id] = waiting
        key = f',"RequestId":"{ask.id}"' if ask.keyed else ""
        return (
            f'{{"jsonrpc":"2.0","id":{self._last_id},"method":"Responder.{ask.method}","params":{{'
            f'"CstmId":"{TENANT}","Subject":"{ask.subject}","DestinationPrefix":"{DIALLED}",'
            f'"Amount":{number(ask.amount)}{key}}}}}\n'
        ).encode()

    def _take(self, data: bytes) -> bytes:
        *lines, rest = data.split(b"\n")
        for line in lines:
            reply = _decode(line)
            sent_us, future = self._waiting.pop(reply.id)
            if reply.error is not None:
                future.set_result(_of_error(sent_us, reply.error))
            else:
                future.set_result(Answer(sent_us, 0, bytes(reply.result).decode()))
        return rest


class HttpWire(Wire):
    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()

    def _owed(self) -> list[Waiting]:
        return list(self._waiting)

    def _encode(self, ask: Ask, waiting: Waiting) -> bytes:
        self._waiting.append(waiting)
        key = f"Idempotency-Key: {ask.id}\r\n" if ask.keyed else ""
        query = f"cstmid={TENANT}&subj={ask.subject}&dest={DIALLED}&amount={number(ask.amount)}"
        head = f"POST /{ask.method.lower()}?{query} HTTP/1.1\r\nHost: x\r\n{key}Content-Length: 0\r\n\r\n"
        return head.encode()

    def _take(self, data: bytes) -> bytes:
        while (end := data.find(b"\r\n\r\n")) >= 0:
            head = data[:end].lower()
            status = int(head[9:12])
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            if len(data) < end + 4 + length:
                break
            body, data = data[end + 4 : end + 4 + length], data[end + 4 + length :]
            sent_us, future = self._waiting.popleft()
            marked = b"idempotency-replayed: true" in head
            if status == 200:
                future.set_result(Answer(sent_us, 0, body.decode(), marked))
            else:
                future.set_result(_of_error(sent_us, _decode_http(body).error, marked))
        return data


class Lane(Protocol):
    """A way to be asked."""

    in_flight: int
    """As many requests at a time, for each front."""

    async def ask(self, ask: Ask, *, drop: bool = False) -> Answer | None:
        """None when nothing could be sent."""

    def reset(self) -> None:
        """End the connection at once."""

    def check(self) -> None:
        """Give up what takes too long."""


class WireLane:
    """A way to one front: a connection that is made anew when it is gone."""

    def __init__(self, kind: type[Wire], address: Address, in_flight: int) -> None:
        self.in_flight = in_flight
        self._kind = kind
        self._address = address
        self._wire: Wire | None = None
        self._dialling: asyncio.Task[Wire | None] | None = None

    async def ask(self, ask: Ask, *, drop: bool = False) -> Answer | None:
        wire = self._wire
        if wire is None or not wire.usable:
            if self._dialling is None:
                self._dialling = asyncio.create_task(self._dial())
            wire = await asyncio.shield(self._dialling)
            if wire is None or not wire.usable:
                return None
        future = wire.send(ask)
        if drop:
            wire.reset()
        return await future

    async def _dial(self) -> Wire | None:
        try:
            _, self._wire = await asyncio.wait_for(
                asyncio.get_running_loop().create_connection(self._kind, *self._address), CONNECT_TIMEOUT_S
            )
        except (OSError, TimeoutError):
            self._wire = None
        self._dialling = None
        return self._wire

    def reset(self) -> None:
        if self._wire is not None:
            self._wire.reset()

    def check(self) -> None:
        if self._wire is not None:
            self._wire.check()
