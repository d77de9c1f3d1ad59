"""The gateway of ZeroMQ clients in its router, over peers that only write down what is asked of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import closing

import zmq

from balancer.dispatch import DispatchSettings
from balancer.peers import Received
from balancer.router import Router
from balancer.zmq_gateway import ZmqGateway
from common.clock import monotonic_us
from common.wire import Kind, WorkItem, decode, encode_done, encode_join, encode_state, encode_work

RATER, CLIENT = b"rater", b"client"


class WrittenDown:
    """Peers whose messages the test says."""

    asked: Sequence[bytes] = ()
    closed = False

    def __init__(self) -> None:
        self.did: list[str] = []
        self._input: list[tuple[bytes, bytes]] = []
        self._ready: Callable[[], None] = lambda: None

    def watch(self, ready: Callable[[], None], lost: Callable[[], None]) -> None:
        self._ready = ready

    def send(self, peer: bytes, frame: bytes) -> None:
        self.did.append(f"{decode(frame)[0].name} to {peer.decode()}")

    def has_input(self) -> bool:
        self.did.append("ask")
        return bool(self._input)

    def receive(self) -> Received:
        if not self._input:
            raise zmq.Again
        return Received(*self._input.pop(0), 0)

    def close(self) -> None:
        self.closed = True

    def bring(self, *messages: tuple[bytes, bytes]) -> None:
        """All at once, and the descriptor says so."""
        self._input += messages
        self._ready()


def test_after_the_answers_to_clients_it_is_asked_for_input() -> None:
    """A message that arrives while they are sent need not make the descriptor readable."""

    async def run() -> list[str]:
        peers = WrittenDown()
        router = Router(DispatchSettings(), peers, "life")
        ZmqGateway(router, "balancer", 10)
        with closing(router):
            router.open()
            item = WorkItem(7, "GetCost", b"{}", "", monotonic_us() + 1_000_000)
            peers.bring(
                (RATER, encode_state("rater", 10, 1)),
                (CLIENT, encode_join("its-life")),
                (CLIENT, encode_work("its-life", monotonic_us(), [item])),
            )
            await asyncio.sleep(0)
            assert f"{Kind.WORK.name} to rater" in peers.did
            peers.did.clear()
            peers.bring((RATER, encode_done("life", [(1, 0, b"1", False)])))
            await asyncio.sleep(0)
            return peers.did

    did = asyncio.run(run())
    assert f"{Kind.DONE.name} to client" in did
    assert did[-1] == "ask"
