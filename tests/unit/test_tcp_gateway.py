"""Connections that get stuck: what the gateway's sweep does about them, with a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest

from balancer import tcp_connection, tcp_gateway
from balancer.actions import Sink
from balancer.client_limits import MAX_IN_FLIGHT
from balancer.router import Router
from balancer.tcp_connection import LINGER_S, Connection
from balancer.tcp_gateway import STUCK_S, TcpGateway
from common.errors import Overloaded, encode_error
from common.rpc.jsonrpc import MAX_EVENTS, Call


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
    overloaded = False

    def __init__(self) -> None:
        self.calls: list[Callable[[int, bytes], None]] = []
        self.refused: Counter[str] = Counter()

    def submit_all(self, calls: list[Call], sink: Sink) -> None:
        self.calls += [partial(sink.answer, call.slot) for call in calls]

    def refuse_all(self, calls: list[Call], sink: Sink) -> None:
        for call in calls:
            sink.answer(call.slot, Overloaded.code, encode_error(Overloaded(detail="too much")))


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

    async def settle(self) -> None:
        """Turns of the loop until all that was read is handled, or waits for the client."""
        while self.gateway._to_go_on or self.connection.write_is_due:
            await asyncio.sleep(0)

    def pass_time(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.connection.check(self.clock.now_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (tcp_gateway, tcp_connection):
        monkeypatch.setattr(module, "time", clock)
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
        assert world.transport.events == ["eof"]
        world.pass_time(LINGER_S)
        assert world.transport.events == ["eof", "close"]

    asyncio.run(story())


def test_half_a_message_after_a_good_one_is_not_finished_either(clock: Clock) -> None:
    async def story() -> None:
        world = World(clock)
        await world.feed(b'{"id":1,"method":"Responder.Get"}\n{"id":')
        world.router.calls[0](0, b"1")
        world.pass_time(STUCK_S - 1)
        await world.feed(b'2,"method":"Responder.Get"}\n{"id":')  # progress: the time begins anew
        world.router.calls[1](0, b"2")
        world.pass_time(STUCK_S - 1)
        assert world.transport.events == []
        world.pass_time(1)
        assert b"the input ends within a message" in world.transport.written
        assert world.transport.events == ["eof"]

    asyncio.run(story())


def test_a_client_that_has_its_answer_to_a_bad_message_may_stay(clock: Clock) -> None:
    async def story() -> None:
        world = World(clock)
        for bad in (b"nonsense\n", b"{}", b'{"id":1,"method":"Responder.Nothing"}'):
            await world.feed(bad)
        world.pass_time(100 * STUCK_S)
        assert world.transport.written.count(b"\n") == 3
        assert world.transport.events == []

    asyncio.run(story())


def test_while_it_is_not_read_the_end_of_its_message_is_not_demanded(clock: Clock) -> None:
    async def story() -> None:
        world = World(clock)
        await world.feed(b'{"id":1,"method":"Responder.Get"}\n' * (MAX_IN_FLIGHT + 1) + b"{")
        await world.settle()
        assert world.transport.events == ["pause"]
        world.pass_time(STUCK_S)
        await world.settle()
        assert world.transport.written == b""
        world.router.calls[0](0, b"1")
        await world.settle()
        world.pass_time(STUCK_S - 1)
        assert world.transport.events == ["pause", "resume"]
        world.pass_time(1)
        assert b"the input ends within a message" in world.transport.written

    asyncio.run(story())


def test_what_one_read_brought_is_handled_in_shares_that_let_others_in_between(clock: Clock) -> None:
    async def story() -> None:
        world = World(clock)
        greedy = world.transport
        await world.feed(b'{"id":1,"method":"Responder.Nothing"}\n' * (5 * MAX_EVENTS + 1))
        assert greedy.events == ["pause"]
        neighbour, transport = Connection(world.gateway), Transport()
        neighbour.connection_made(transport)
        neighbour.data_received(b'{"id":1,"method":"Responder.Nothing"}\n')
        await asyncio.sleep(0)
        assert transport.written.count(b"\n") == 1
        assert greedy.written.count(b"\n") <= 3 * MAX_EVENTS
        await world.settle()
        assert greedy.written.count(b"\n") == 5 * MAX_EVENTS + 1
        assert greedy.events == ["pause", "resume"]

    asyncio.run(story())


def test_the_rest_of_a_read_waits_for_a_client_that_does_not_read_its_answers(clock: Clock) -> None:
    async def story() -> None:
        world = World(clock)
        world.connection.data_received(b'{"id":1,"method":"Responder.Nothing"}\n' * (2 * MAX_EVENTS))
        world.connection.pause_writing()
        await world.settle()
        assert world.transport.written.count(b"\n") == MAX_EVENTS
        world.connection.resume_writing()
        await world.settle()
        assert world.transport.written.count(b"\n") == 2 * MAX_EVENTS
        assert world.transport.events == ["pause", "resume"]

    asyncio.run(story())


def test_draining_answers_the_rest_of_a_read_before_the_end(clock: Clock) -> None:
    async def story() -> None:
        world = World(clock)
        world.connection.data_received(b'{"id":1,"method":"Responder.Nothing"}\n' * (5 * MAX_EVENTS))
        draining = asyncio.create_task(world.gateway.drain(timeout_s=1e9))
        await asyncio.sleep(0)
        await world.settle()
        assert world.transport.written.count(b"\n") == 5 * MAX_EVENTS
        assert world.transport.events == ["pause", "resume", "eof"]
        world.connection.connection_lost(None)
        await draining

    asyncio.run(story())


def test_a_client_that_is_silent_between_messages_may_stay(clock: Clock) -> None:
    async def story() -> None:
        world = World(clock)
        await world.feed(b'{"id":')
        await world.feed(b'1,"method":"Responder.Get"}\n')
        await world.feed(b" \n")
        world.pass_time(100 * STUCK_S)
        assert world.transport.events == []
        world.router.calls[0](0, b"1")
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
        await world.feed(b'{"id":1,"method":"Responder.Get"}\n' * (MAX_IN_FLIGHT + 1))
        await world.settle()
        assert len(world.router.calls) == MAX_IN_FLIGHT + 1
        assert world.transport.events == ["pause"]
        world.router.calls[0](0, b"1")
        await asyncio.sleep(0)
        assert world.transport.events == ["pause", "resume"]

    asyncio.run(story())


def test_under_overload_calls_above_those_in_flight_are_refused_and_not_held_back(clock: Clock) -> None:
    async def story() -> None:
        world = World(clock)
        message = b'{"id":1,"method":"Responder.Get"}\n'
        await world.feed(message * (MAX_IN_FLIGHT + 1))
        await world.settle()
        world.router.overloaded = True
        world.router.calls[0](0, b"1")
        world.router.calls[1](0, b"1")
        await world.feed(message * 2)
        await world.feed(message * 3)
        assert len(world.router.calls) == MAX_IN_FLIGHT + 3
        assert world.transport.written.count(b"overloaded") == 3
        assert world.transport.events == ["pause", "resume"]
        world.router.overloaded = False
        await world.feed(message)
        assert world.transport.events == ["pause", "resume", "pause"]

    asyncio.run(story())


def test_where_this_side_ends_it_input_is_dropped_for_a_moment(clock: Clock) -> None:
    async def story() -> None:
        world = World(clock)
        await world.feed(b'{"id":1,"method":"Responder.Get"}\n')
        draining = asyncio.create_task(world.gateway.drain(timeout_s=1e9))
        await asyncio.sleep(0)
        assert world.transport.events == []
        world.router.calls[0](0, b"1")
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
        world.router.calls[0](0, b"1")
        await asyncio.sleep(0)
        assert world.transport.written == b""

    asyncio.run(story())
