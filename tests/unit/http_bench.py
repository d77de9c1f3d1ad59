"""A connection of the HTTP gateway without a network: bytes in, bytes out, and time by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from balancer.client_limits import DEFAULT_CLIENT_LIMITS
from balancer.http.connection import Connection
from balancer.http.message import Request

DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
STUCK_S = 20.0


class Loop:
    """Calls what is to be called soon when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.soon: list[Callable[[], None]] = []

    def time(self) -> float:
        return self.now_s

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()


class Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.reading = True
        self.closed = self.aborted = self.eof = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        assert not self.eof
        self.written.append(data)

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> tuple[str, int]:
        assert name == "peername"
        return "192.0.2.1", 4711


class Bench:
    """It is the gateway of one connection. Requests for `/now…` are answered at once, others by `answer`."""

    def __init__(self, *, full: bool = False) -> None:
        self.loop = cast(asyncio.AbstractEventLoop, Loop())
        self.closing = False
        self.stuck_s = STUCK_S
        self.limits = DEFAULT_CLIENT_LIMITS
        self.date = DATE
        self.full = full
        self.served: list[Request] = []
        self.gone = False
        self.refused: list[str] = []
        self.times_behind = 0
        self.body = b'"done"'
        self.transport = Transport()
        self.connection = Connection(self)
        self.connection.connection_made(cast(Any, self.transport))

    def serve(self, request: Request) -> None:
        self.served.append(request)
        if request.target.startswith(b"/now"):
            self.answer(len(self.served) - 1)

    def answer(self, place: int = -1) -> None:
        request = self.served[place]
        request.respond(200, self.body, b"about: %b\r\n" % request.target)

    def admit(self, connection: Connection) -> str:
        return "no room" if self.full else ""

    def note_refusal(self, name: str) -> None:
        self.refused.append(name)

    def is_behind(self) -> None:
        self.times_behind += 1

    def forget(self, connection: Connection) -> None:
        self.gone = True

    # --- what tests do and see ---------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """As the event loop would hand it over: not while reading is paused."""
        assert self.transport.reading
        self.connection.data_received(data)

    def turn(self, count: int = 1) -> None:
        for _ in range(count):
            cast(Loop, self.loop).turn()

    def settle(self) -> int:
        """Turns of the loop until there is nothing to do."""
        turns = 0
        while cast(Loop, self.loop).soon:
            self.turn()
            turns += 1
        return turns

    def wait(self, seconds: float) -> None:
        """Let time pass; the gateway looks every second."""
        for _ in range(round(seconds)):
            cast(Loop, self.loop).now_s += 1
            self.connection.check(self.loop.time())
            self.settle()

    @property
    def targets(self) -> list[bytes]:
        return [request.target for request in self.served]

    @property
    def output(self) -> bytes:
        return b"".join(self.transport.written)

    @property
    def answered(self) -> list[bytes]:
        """Targets of the requests that were answered, in the order of the responses."""
        return [line[7:] for line in self.output.split(b"\r\n") if line.startswith(b"about: ")]

    @property
    def statuses(self) -> list[int]:
        return [int(part[:3]) for part in self.output.split(b"HTTP/1.1 ")[1:]]
