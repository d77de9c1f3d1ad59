"""A lean client for load far beyond what a cluster can do: it costs some µs of CPU a request.

*Open loop*: requests leave at a fixed rate, whatever became of the others, as those of many callers do
who know nothing of each other. Latency counts from the moment at which a request was to be sent, so that
a client or a balancer which falls behind can't hide it (no "coordinated omission").

*Closed loop*: a fixed number of requests is unanswered at any time. It finds what a cluster can do.

Messages are made from a template; nothing but the number of a reply and its kind is read from it.
"""

from __future__ import annotations

import gc
import re
import select
import socket
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

SLICE_S: Final = 0.002
"""Requests that are due within it leave together: short beside any latency under load."""

RPC_CONNECTIONS: Final = 16
"""A connection of JSON-RPC has up to 1,000 unanswered calls, then the balancer reads no more of it. These
together are far above what it admits, so that it is the balancer that refuses."""

HTTP_CONNECTIONS: Final = 6000
"""One request at a time on each: what an open loop needs at the same time is its rate × its latency."""

PATIENCE_S: Final = 10.0
"""After the last request, for the last answer: twice the deadline of a request."""

RECEIVE_BYTES: Final = 64 * 1024
"""A read of more than 128 KiB takes its buffer from the kernel each time, some 25 µs."""


class Kind(Enum):
    OK = "ok"
    OVERLOADED = "overloaded"
    OTHER = "other"


class Request(NamedTuple):
    """What is asked: a method with the text of a descriptor for JSON-RPC, or the target of a GET."""

    method: str = ""
    descriptor: str = ""
    target: str = ""


class Reply(NamedTuple):
    number: int
    kind: Kind


class RpcConnection:
    """Many requests in flight, matched by id."""

    def __init__(self, address: tuple[str, int], request: Request) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setblocking(False)
        self._template = b'{"jsonrpc":"2.0","id":%%d,"method":"Responder.%b","params":%b}\n' % (
            request.method.encode(),
            request.descriptor.encode(),
        )
        self._unsent = bytearray()
        self._unread = b""

    def send(self, numbers: Iterable[int]) -> None:
        template = self._template
        self._unsent += b"".join([template % number for number in numbers])
        self.push()

    def push(self) -> bool:
        """Send what can be sent; whether that was all."""
        if self._unsent:
            with suppress(BlockingIOError):
                del self._unsent[: self.socket.send(self._unsent)]
        return not self._unsent

    def receive(self) -> list[Reply]:
        data = self.socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the balancer closed the connection")
        *lines, self._unread = (self._unread + data).split(b"\n")
        return [_rpc_reply(line) for line in lines]


_ID_AT: Final = len('{"jsonrpc":"2.0","id":')


def _rpc_reply(line: bytes) -> Reply:
    comma = line.index(b",", _ID_AT)
    number = int(line[_ID_AT:comma])
    if line.startswith(b'"result"', comma + 1):
        return Reply(number, Kind.OK)
    return Reply(number, Kind.OVERLOADED if b'"code":-32030,' in line else Kind.OTHER)


class HttpConnection:
    """One request at a time."""

    def __init__(self, address: tuple[str, int], request: Request) -> None:
        self.socket = socket.create_connection(address)
        # Connected is not accepted: a burst would wait for the kernel to send again what found no room.
        self.socket.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        self.socket.recv(RECEIVE_BYTES)
        self.socket.setblocking(False)
        self._message = f"GET {request.target} HTTP/1.1\r\nHost: {address[0]}\r\n\r\n".encode()
        self._number = 0
        self._unread = b""

    def send(self, numbers: Iterable[int]) -> None:
        [self._number] = numbers
        self.socket.send(self._message)  # much smaller than the kernel's buffer, which is empty

    def push(self) -> bool:
        return True

    def receive(self) -> list[Reply]:
        data = self.socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the balancer closed the connection")
        data = self._unread + data
        head, end, body = data.partition(b"\r\n\r\n")
        found = _LENGTH.search(head)
        if not end or (found and len(body) < int(found[1])):
            self._unread = data
            return []
        self._unread = b""
        status = data[9:12]
        if status == b"503" and _RETRY_AFTER.search(head) and b'"overloaded"' in body:
            return [Reply(self._number, Kind.OVERLOADED)]
        return [Reply(self._number, Kind.OK if status == b"200" else Kind.OTHER)]


_LENGTH: Final = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_RETRY_AFTER: Final = re.compile(rb"\r\nretry-after: [1-9]", re.IGNORECASE)

Connection = RpcConnection | HttpConnection


@dataclass
class Outcome:
    """What became of one run's requests."""

    offered_per_s: float
    seconds: float
    sent: int = 0
    in_time: int = 0
    """Results that came while requests were still offered: the goodput is made of these."""
    latencies_s: dict[Kind, list[float]] = field(default_factory=lambda: {kind: [] for kind in Kind})

    @property
    def goodput_per_s(self) -> float:
        return self.in_time / self.seconds

    @property
    def unanswered(self) -> int:
        return self.sent - sum(map(len, self.latencies_s.values()))

    def count(self, kind: Kind) -> int:
        return len(self.latencies_s[kind])

    def quantile_ms(self, kind: Kind, share: float) -> float:
        """0 if there was none."""
        ordered = sorted(self.latencies_s[kind])
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1000 if ordered else 0.0


class Client:
    """Connections to one balancer, for one kind of request. A context manager."""

    def __init__(self, address: tuple[str, int], request: Request, connections: int = 0) -> None:
        kind = HttpConnection if request.target else RpcConnection
        self._one_at_a_time = kind is HttpConnection
        count = connections or (HTTP_CONNECTIONS if self._one_at_a_time else RPC_CONNECTIONS)
        self._connections: dict[int, Connection] = {}
        self._epoll = select.epoll()
        for _ in range(count):
            connection = kind(address, request)
            self._connections[connection.socket.fileno()] = connection
            self._epoll.register(connection.socket, select.EPOLLIN)
        self._free = deque(self._connections.values())
        self._blocked: set[Connection] = set()
        self._due: deque[int] = deque()
        """Numbers of requests that wait for a free connection: over HTTP, when all are in use."""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections.values():
            connection.socket.close()
        self._epoll.close()

    def open_loop(self, rate_per_s: float, seconds: float) -> Outcome:
        """Offer so many requests a second, then wait for the last answers."""
        outcome = Outcome(rate_per_s, seconds)
        total = int(rate_per_s * seconds)
        gc.disable()
        began_s = time.monotonic()
        try:
            while (passed_s := time.monotonic() - began_s) < seconds + PATIENCE_S:
                due = min(int(passed_s * rate_per_s) + 1, total)
                if due > outcome.sent:
                    self._send(range(outcome.sent, due))
                    outcome.sent = due
                elif due == total and not outcome.unanswered:
                    break
                for number, kind in self._receive():
                    passed_s = time.monotonic() - began_s
                    outcome.latencies_s[kind].append(passed_s - number / rate_per_s)
                    outcome.in_time += kind is Kind.OK and passed_s <= seconds
        finally:
            gc.enable()
        return outcome

    def closed_loop(self, window: int, seconds: float) -> Outcome:
        """Keep so many requests unanswered, then wait for the last answers."""
        outcome = Outcome(0.0, seconds, sent=window)
        sent_at_s = [time.monotonic()] * window
        began_s = now_s = time.monotonic()
        self._send(range(window))
        while outcome.unanswered and now_s - began_s < seconds + PATIENCE_S:
            replies = self._receive()
            now_s = time.monotonic()
            for number, kind in replies:
                outcome.latencies_s[kind].append(now_s - sent_at_s[number])
                outcome.in_time += kind is Kind.OK and now_s - began_s <= seconds
            if replies and now_s - began_s < seconds:
                sent_at_s += [now_s] * len(replies)
                self._send(range(outcome.sent, outcome.sent + len(replies)))
                outcome.sent += len(replies)
        return outcome

    def _send(self, numbers: range) -> None:
        if self._one_at_a_time:
            self._due.extend(numbers)
            self._send_due()
            return
        connection = self._free[0]
        self._free.rotate(-1)
        connection.send(numbers)
        if not connection.push():
            self._blocked.add(connection)

    def _send_due(self) -> None:
        while self._due and self._free:
            self._free.popleft().send([self._due.popleft()])

    def _receive(self) -> list[Reply]:
        """What has arrived, after a moment at most."""
        self._blocked = {connection for connection in self._blocked if not connection.push()}
        replies: list[Reply] = []
        for fd, _ in self._epoll.poll(SLICE_S):
            connection = self._connections[fd]
            received = connection.receive()
            replies += received
            if received and self._one_at_a_time:
                self._free.append(connection)
        self._send_due()
        return replies
