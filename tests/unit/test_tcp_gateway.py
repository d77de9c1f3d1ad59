"""Connections that get stuck: what the gateway's sweep does about them, with a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from balancer import tcp_gateway
from balancer.router import Router
from balancer.tcp_gateway import LINGER_S, STUCK_S, Connection, TcpGateway


class Socket:
    def setsockopt(self, *_: int) -> None:
        pass


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__({"socket": Socket(), "peername": ("192.0.2.1", 7)})
        self.written = b""
        self.events: list[str] = []

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.events.append("eof")

    def close(self) -> None:
        self.events.append("close")

    def abort(self) -> None:
        self.events.append("abort")

    def is_closing(self) -> bool:
        return "close" in self.events or "abort" in self.events

    def pause_reading(self) -> None:
        self.events.append("pause")

    def resume_reading(self) -> None:
        self.events.append("resume")


class FakeRouter:
    def __init__(self) -> None:
        self.calls: list[Callable[[int, bytes, bool], None]] = []

    def submit(
        self, method: object, params: bytes, key: str, callback: Callable[[int, bytes, bool], None]
    ) -> None:
        self.calls.append(callback)


class Clock:
    now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


class World:
    """One connection; `run` makes what a turn of the loop would."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.router = FakeRouter()
        self.loop = asyncio.get_running_loop()
        self.gateway = TcpGateway(cast(Router, self.router))
        self.connection = Connection(self.gateway)
        self.transport = Transport()
        self.connection.connection_made(self.transport)

    async def feed(self, data: bytes) -> None:
        self.connection.data_received(data)
        await asyncio.sleep(0)

    def pass_time(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.connection.check(self.clock.now_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tcp_gateway, "time", clock)
    return clock


def test_a_message_that_is_not_finished_in_time_is_an_error_and_ends_the_connection(clock: Clock) -> None:
    async def story() -> None:
        world = World(clock)
        await world.feed(b'{"id":')
        world.pass_time(STUCK_S - 1)
        await world.feed(b"1,")
        assert world.transport.written == b""
        world.pass_time(1)
        assert b"the input ends within a message" in world.transport.written
        assert world.transport.events == ["close"]

    asyncio.run(story())


def test_a_client_that_is_silent_between_messages_may_stay(clock: Clock) -> None:
    async def story() -> None:
        world = World(clock)
        await world.feed(b'{"id":')
        await world.feed(b'1,"method":"Responder.Get"}\n')
        await world.feed(b" \n")
        world.pass_time(100 * STUCK_S)
        assert world.transport.events == []
        world.router.calls[0](0, b"1", False)
        await asyncio.sleep(0)
        assert world.transport.written == b'{"id":1,"result":1,"error":null}\n'

    asyncio.run(story())


def test_a_client_that_does_not_read_is_not_read_and_let_go_in_the_end(clock: Clock) -> None:
    async def story() -> None:
        world = World(clock)
        world.connection.pause_writing()
        world.pass_time(STUCK_S - 1)
        world.connection.resume_writing()
        world.pass_time(STUCK_S)
        assert world.transport.events == ["pause", "resume"]
        world.connection.pause_writing()
        world.pass_time(STUCK_S)
        assert world.transport.events == ["pause", "resume", "pause", "abort"]

    asyncio.run(story())


def test_reading_stops_above_the_calls_in_flight_and_goes_on_below(clock: Clock) -> None:
    async def story() -> None:
        world = World(clock)
        await world.feed(b'{"id":1,"method":"Responder.Get"}\n' * (tcp_gateway.MAX_IN_FLIGHT + 1))
        assert world.transport.events == ["pause"]
        world.router.calls[0](0, b"1", False)
        await asyncio.sleep(0)
        assert world.transport.events == ["pause", "resume"]

    asyncio.run(story())


def test_where_this_side_ends_it_input_is_dropped_for_a_moment(clock: Clock) -> None:
    async def story() -> None:
        world = World(clock)
        await world.feed(b'{"id":1,"method":"Responder.Get"}\n')
        draining = asyncio.create_task(world.gateway.drain(timeout_s=1e9))
        await asyncio.sleep(0)
        assert world.transport.events == []
        world.router.calls[0](0, b"1", False)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert world.transport.events == ["eof"]
        await world.feed(b'{"id":2,"method":"Responder.Get"}\n')
        assert len(world.router.calls) == 1
        world.pass_time(LINGER_S)
        assert world.transport.events == ["eof", "close"]
        world.connection.connection_lost(None)
        await draining

    asyncio.run(story())


def test_answers_for_a_client_that_is_gone_are_dropped(clock: Clock) -> None:
    async def story() -> None:
        world = World(clock)
        await world.feed(b'{"id":1,"method":"Responder.Get"}\n')
        world.connection.connection_lost(None)
        world.router.calls[0](0, b"1", False)
        await asyncio.sleep(0)
        assert world.transport.written == b""

    asyncio.run(story())
