"""Requests in, latencies out: one process, plain sockets and epoll, some 2 µs of CPU a request at full load.

*Closed loop*: each connection always has the same number of requests unanswered; finds the capacity.

*Open loop*: requests leave at a fixed rate, whatever became of the others. Latency counts from the
moment at which a request was to be sent, so that neither a stall of the cluster nor one of this client
can hide it ("coordinated omission").

Every reply's id has to be that of a request that waits for one, every reply is counted as result or
error, and one read in `CHECK_EVERY` is parsed and compared with what is right.
"""

from __future__ import annotations

import gc
import json
import re
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from loadtests.bench.requests import NUMBER_DIGITS, Pool, fault, place_of

CHECK_EVERY: Final = 50
"""Reads: a parsed reply costs some 5 µs, so this is a tenth of one a read."""

PATIENCE_S: Final = 10.0
"""After the last request, for the last answer: twice the deadline of a request."""

SLICE_S: Final = 0.000_2
"""Requests of an open loop that are due within it leave together, and replies that came within it are read
together, so latencies are up to so much too long: short beside any round trip. To wake for each reply takes
half as much again, 7 to 13 µs a request, of the cores that the servers are on."""

_BUFFER: Final = memoryview(bytearray(256 * 1024))
"""Read into by all connections in turn: a new one for each read would cost more than all the rest."""

KEPT_FAILURES: Final = 5
"""As texts, to show; the rest is counted."""

_NUMBER_AT: Final = len('{"id":')
_NUMBER_ENDS: Final = _NUMBER_AT + NUMBER_DIGITS
_RESULT_ENDS: Final = b'"error":null}'
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class WrongReply(Exception):
    """An answer that can't be right: figures of such a cluster are worth nothing."""


class Received(NamedTuple):
    numbers: list[bytes]
    replies: list[bytes]
    failed: list[int]
    """Places of those that are errors."""


class RpcConnection:
    """JSON-RPC 1.0: many requests in flight, matched by id."""

    one_at_a_time = False

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._unsent = bytearray()
        self._unread = b""

    def send(self, numbers: list[bytes], data: bytes) -> bool:
        """Whether all of it could be sent; what could not waits for `push`."""
        if not self._unsent:
            with suppress(BlockingIOError):
                data = data[self.socket.send(data) :]
        self._unsent += data
        return not self._unsent

    def push(self) -> bool:
        with suppress(BlockingIOError):
            del self._unsent[: self.socket.send(self._unsent)]
        return not self._unsent

    def receive(self) -> Received:
        data = _read(self.socket)
        replies = (self._unread + data if self._unread else data).split(b"\n")
        self._unread = replies.pop()
        return Received(
            [reply[_NUMBER_AT:_NUMBER_ENDS] for reply in replies],
            replies,
            [place for place, reply in enumerate(replies) if not reply.endswith(_RESULT_ENDS)],
        )

    @staticmethod
    def result(reply: bytes) -> Any:
        return json.loads(reply)["result"]


class HttpConnection:
    """Keep-alive, one request at a time."""

    one_at_a_time = True

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._numbers: list[bytes] = []
        self._unread = b""

    def send(self, numbers: list[bytes], data: bytes) -> bool:
        self._numbers = numbers
        self.socket.send(data)  # much smaller than the kernel's buffer, which is empty
        return True

    def push(self) -> bool:
        return True

    def receive(self) -> Received:
        data = self._unread + _read(self.socket)
        head, end, body = data.partition(b"\r\n\r\n")
        found = _LENGTH.search(head)
        if not end or (found and len(body) < int(found[1])):
            self._unread = data
            return Received([], [], [])
        self._unread = b""
        return Received(self._numbers, [body], [] if head.startswith(b"HTTP/1.1 200 ") else [0])

    @staticmethod
    def result(reply: bytes) -> Any:
        return json.loads(reply)


Connection = RpcConnection | HttpConnection


def _read(source: socket.socket) -> bytes:
    size = source.recv_into(_BUFFER)
    if not size:
        raise ConnectionError("the balancer closed the connection")
    return bytes(_BUFFER[:size])


@dataclass
class Outcome:
    """What became of one run's requests."""

    seconds: float
    sent: int = 0
    in_time: int = 0
    """Results that came while requests were still offered: the rate is made of these."""
    latencies_s: list[float] = field(default_factory=list)
    """Of every reply, errors too."""
    failed: list[bytes] = field(default_factory=list)
    """Ids of the requests that got an error."""
    unanswered: list[bytes] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    checked: int = 0


class Load:
    """Connections to one address, and the requests that they send. A context manager."""

    def __init__(
        self, kind: type[RpcConnection | HttpConnection], address: tuple[str, int], count: int, pool: Pool
    ) -> None:
        self._pool = pool
        self._connections: dict[int, Connection] = {}
        self._epoll = select.epoll()
        for _ in range(count):
            connection = kind(address)
            self._connections[connection.socket.fileno()] = connection
            self._epoll.register(connection.socket, select.EPOLLIN)
        self._blocked: set[Connection] = set()
        self._waiting: dict[bytes, float] = {}
        """When the unanswered requests were sent, or were to be sent."""
        self._reads = 0
        self._outcome = Outcome(0.0)

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections.values():
            connection.socket.close()
        self._epoll.close()

    def closed_loop(self, in_flight: int, seconds: float) -> Outcome:
        with self._run(seconds) as outcome:
            until_s = time.monotonic() + seconds
            for connection in self._connections.values():
                self._send(connection, [time.monotonic()] * in_flight)
            while self._waiting:
                events = self._epoll.poll(PATIENCE_S)
                if not events:
                    break
                for fd, _ in events:
                    connection = self._connections[fd]
                    count = self._receive(connection, until_s)
                    now_s = time.monotonic()
                    if count and now_s < until_s:
                        self._send(connection, [now_s] * count)
                self._push()
        return outcome

    def open_loop(self, rate_per_s: float, seconds: float) -> Outcome:
        """Offer so many requests a second, then wait for the last answers."""
        total = int(rate_per_s * seconds)
        most_waiting = len(self._pool.requests) // 2  # the next ones have to find a free id
        free = deque(self._connections.values())
        with self._run(seconds) as outcome:
            began_s = now_s = time.monotonic()
            until_s = began_s + seconds
            while (self._waiting or outcome.sent < total) and now_s < until_s + PATIENCE_S:
                due = min(int((now_s - began_s) * rate_per_s) + 1, total)
                while free and (room := min(due - outcome.sent, most_waiting - len(self._waiting))) > 0:
                    connection = free.popleft()
                    count = 1 if connection.one_at_a_time else room
                    numbers = range(outcome.sent, outcome.sent + count)
                    self._send(connection, [began_s + number / rate_per_s for number in numbers])
                    if not connection.one_at_a_time:
                        free.append(connection)
                next_s = began_s + outcome.sent / rate_per_s if outcome.sent < total else until_s + PATIENCE_S
                self._await_replies(next_s)
                for fd, _ in self._epoll.poll(0):
                    connection = self._connections[fd]
                    if self._receive(connection, until_s) and connection.one_at_a_time:
                        free.append(connection)
                self._push()
                now_s = time.monotonic()
        return outcome

    def _await_replies(self, until_s: float) -> None:
        """Sleep for a slice, then for what is left until replies come or the next request is due."""
        time.sleep(SLICE_S)
        left_s = until_s - time.monotonic()
        if left_s > 0:
            # epoll waits for whole milliseconds, select, on the epoll itself, for what is asked.
            select.select([self._epoll], [], [], left_s)

    @contextmanager
    def _run(self, seconds: float) -> Iterator[Outcome]:
        self._outcome = outcome = Outcome(seconds)
        gc.disable()
        try:
            yield outcome
        finally:
            gc.enable()
        outcome.unanswered = list(self._waiting)

    def _send(self, connection: Connection, times_s: list[float]) -> None:
        numbers, data = self._pool.take(len(times_s), self._waiting.keys())
        self._waiting.update(zip(numbers, times_s, strict=True))
        self._outcome.sent += len(numbers)
        if not connection.send(numbers, data):
            self._blocked.add(connection)

    def _push(self) -> None:
        if self._blocked:
            self._blocked = {connection for connection in self._blocked if not connection.push()}

    def _receive(self, connection: Connection, until_s: float) -> int:
        """How many replies there were."""
        received = connection.receive()
        numbers, outcome, sent_at_s = received.numbers, self._outcome, self._waiting.pop
        now_s = time.monotonic()
        try:
            outcome.latencies_s += [now_s - sent_at_s(number) for number in numbers]
        except KeyError:
            raise WrongReply(f"nobody waits for one of {received.replies!r:.400}") from None
        if received.failed:
            self._note(received)
        if now_s <= until_s:
            outcome.in_time += len(numbers) - len(received.failed)
        self._reads += 1
        if self._reads % CHECK_EVERY == 1 and numbers and 0 not in received.failed:
            self._check(numbers[0], connection.result(received.replies[0]))
        return len(numbers)

    def _note(self, received: Received) -> None:
        self._outcome.failed += [received.numbers[place] for place in received.failed]
        missing = KEPT_FAILURES - len(self._outcome.failures)
        for place in received.failed[: max(0, missing)]:
            self._outcome.failures.append(received.replies[place].decode(errors="replace"))

    def _check(self, number: bytes, result: Any) -> None:
        self._outcome.checked += 1
        if wrong := fault(self._pool.requests[place_of(number)], result):
            raise WrongReply(wrong)
