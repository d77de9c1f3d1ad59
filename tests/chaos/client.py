"""One client process of a chaos run: keeps many requests in flight, and everything in its book.

Run as `python -m tests.chaos.client FILE` with a JSON file of `Orders`. It works until the line `stop`
comes on its standard input, finishes what it has begun, and waits for `replay`: then it sends a part of
what was decided once more, and ends. SIGUSR1 resets all its connections.

A request whose outcome is open is sent again with its key, at another front, until it is decided.
One without a key is sent once. Fronts are balancers or gateways; a process may speak ZeroMQ as well, to
both balancers.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import struct
import sys
import time
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from common.addresses import Address
from tests.chaos.books import Open, Pen, Told, now_us
from tests.chaos.wires import OPEN, SWEEP_S, Answer, HttpWire, JsonWire, Lane, WireLane
from tests.chaos.workload import MICROS, Ask, stream
from tests.chaos.zmq_lane import ZmqLane

IN_FLIGHT: Final = {JsonWire: 16, HttpWire: 3}
LANES: Final = {JsonWire: 3, HttpWire: 2}
"""Of each process to each front."""

GIVE_UP_S: Final = 90.0
"""For one request: longer than any fault with its recovery. What is open by then stays unresolved."""

PROGRESS: Final = struct.Struct("<QQQ")
"""What others see of a client: acknowledged, in progress, phase."""
WORKING, STOPPED, ENDED = 0, 1, 2


class Orders(msgspec.Struct):
    seed: int
    number: int
    book: str
    progress: str
    jsonrpc: list[Address]
    http: list[Address]
    routers: list[Address]
    """Balancers' ports to be asked over ZeroMQ, if any."""
    replay_share: float


class Client:
    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._pen = Pen(Path(orders.book))
        with Path(orders.progress).open("r+b") as file:
            self._progress = mmap.mmap(file.fileno(), PROGRESS.size)
        self._stream = stream(orders.seed, orders.number)
        self._random = Random(f"{orders.seed}/{orders.number}/lanes")
        self._zmq = ZmqLane(orders.routers) if orders.routers else None
        self._lanes: list[list[Lane]] = [
            [
                WireLane(kind, address, IN_FLIGHT[kind])
                for kind, address in ((JsonWire, jsonrpc), (HttpWire, http))
                for _ in range(LANES[kind])
            ]
            for jsonrpc, http in zip(orders.jsonrpc, orders.http, strict=True)
        ]
        if self._zmq is not None:
            for lanes in self._lanes:
                lanes.append(self._zmq)
        self._decided: list[Ask] = []
        self._to_replay: list[Ask] = []
        self._acknowledged = 0
        self._in_progress = 0
        self._phase = WORKING
        self._show()

    def _show(self) -> None:
        PROGRESS.pack_into(self._progress, 0, self._acknowledged, self._in_progress, self._phase)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        orders: asyncio.Queue[str] = asyncio.Queue()
        loop.add_reader(sys.stdin, lambda: orders.put_nowait(sys.stdin.readline().strip()))
        loop.add_signal_handler(signal.SIGUSR1, self._reset_all)
        loop.add_signal_handler(signal.SIGTERM, self._abandon)
        sweeper = asyncio.create_task(self._sweep())
        working = [
            asyncio.create_task(self._work(front, lane))
            for front, lanes in enumerate(self._lanes)
            for lane in lanes
            for _ in range(lane.in_flight)
        ]
        await self._order(orders, "stop", working)
        self._phase = STOPPED
        await asyncio.gather(*working)
        self._show()
        await self._order(orders, "replay", working)
        share = self._orders.replay_share
        self._to_replay = [ask for ask in self._decided if self._random.random() < share]
        await asyncio.gather(*(self._replay_all() for _ in range(64)))
        sweeper.cancel()
        if self._zmq is not None:
            self._zmq.end()
        self._pen.close()
        self._phase = ENDED
        self._show()

    @staticmethod
    async def _order(orders: asyncio.Queue[str], expected: str, working: list[asyncio.Task[None]]) -> None:
        """Wait for the next order, or for the first worker that fails."""
        getting = asyncio.create_task(orders.get())
        while not getting.done():
            await asyncio.wait([getting], timeout=1)
            for task in working:
                if task.done():
                    task.result()
        assert getting.result() == expected, getting.result()

    def _abandon(self) -> None:
        """The run is stuck: leave the book as it is."""
        self._pen.close()
        os._exit(1)

    def _reset_all(self) -> None:
        for lanes in self._lanes:
            for lane in lanes:
                lane.reset()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            for lanes in self._lanes:
                for lane in lanes:
                    lane.check()
            self._show()

    async def _work(self, front: int, lane: Lane) -> None:
        while self._phase == WORKING:
            ask = next(self._stream)
            self._in_progress += 1
            self._pen.intend(ask)
            twin = None
            if ask.twin:
                twin = asyncio.create_task(self._ask(ask, self._other(front), "twin"))
            decided = await self._decide(ask, front, lane)
            if twin is not None:
                await twin
            if decided and ask.replayed:
                await self._ask(ask, self._any(), "replay")
            if decided and ask.reused:
                await self._ask(ask._replace(amount=ask.amount + MICROS), self._any(), "reuse")
            self._in_progress -= 1

    async def _decide(self, ask: Ask, front: int, lane: Lane) -> bool:
        """Ask until it is decided, or can't be; whether it is."""
        give_up_s = time.monotonic() + GIVE_UP_S
        answer = await self._ask(ask, lane, "ask", drop=ask.dropped)
        while answer is None or answer.code == OPEN:
            if answer is not None and not ask.keyed:
                return False
            if time.monotonic() > give_up_s:
                return False
            await asyncio.sleep(self._random.uniform(0.02, 0.2))
            front = 1 - front if len(self._lanes) > 1 else 0
            answer = await self._ask(ask, self._random.choice(self._lanes[front]), "ask")
        if answer.code == 0:
            self._acknowledged += 1
            if not self._acknowledged % 16:
                self._show()
        if ask.keyed:
            self._decided.append(ask)
        return ask.keyed

    async def _ask(self, ask: Ask, lane: Lane, purpose: str, *, drop: bool = False) -> Answer | None:
        """Ask once, and write down what came of it. None when nothing could be sent."""
        answer = await lane.ask(ask, drop=drop)
        if answer is None:
            return None
        sent_us, code, text, marked, certain = answer
        if code != OPEN:
            self._pen.told(ask, Told(sent_us, now_us(), code, text, purpose, marked))
        elif purpose != "reuse":
            self._pen.open(ask, Open(sent_us, now_us(), text, certain))
        return answer

    async def _replay_all(self) -> None:
        while self._to_replay:
            ask = self._to_replay.pop()
            while True:
                answer = await self._ask(ask, self._any(), "replay")
                if answer is not None and answer.code != OPEN:
                    break
                await asyncio.sleep(0.05)

    def _other(self, front: int) -> Lane:
        return self._random.choice(self._lanes[1 - front if len(self._lanes) > 1 else 0])

    def _any(self) -> Lane:
        return self._random.choice(self._random.choice(self._lanes))


def main() -> None:
    orders = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Orders)
    asyncio.run(Client(orders).run())


if __name__ == "__main__":
    main()
