"""What a ZeroMQ client makes of balancers that are gone, and of the words of those that are not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import zmq

from common.errors import DeadlineExceeded, Overloaded, RatelError, ShuttingDown, encode_error
from common.wire import PROBE, Kind, Reply, WorkItem, decode, encode_done, encode_goodbye, encode_state
from common.zmq_client import ZmqClient

Respond = Callable[[str, list[WorkItem]], bytes]


class FakeBalancer:
    """Says with each heartbeat whether it `is_free`, and answers WORK with what `respond` makes of it."""

    def __init__(self, respond: Respond, is_free: Callable[[], bool] = lambda: True) -> None:
        self._respond, self._is_free = respond, is_free
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self.address = f"127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self.calls = 0
        self._stop = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> FakeBalancer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join()
        self._context.destroy(linger=0)

    def _run(self) -> None:
        while not self._stop:
            if not self._socket.poll(20):
                continue
            peer, frame = self._socket.recv_multipart()
            if frame == PROBE:
                continue
            kind, fields = decode(frame)
            if kind is Kind.JOIN:
                self._socket.send_multipart([peer, encode_state("fake", 10 * self._is_free(), 1)])
            elif kind is Kind.WORK:
                items = [WorkItem(*row) for row in fields[2]]
                self.calls += len(items)
                self._socket.send_multipart([peer, self._respond(fields[0], items)])


def takes_leave(life: str, items: list[WorkItem]) -> bytes:
    return encode_goodbye()


def refuses(error: RatelError) -> Respond:
    def respond(life: str, items: list[WorkItem]) -> bytes:
        return encode_done(life, [Reply(item.seq, error.code, encode_error(error), False) for item in items])

    return respond


REFUSALS = [Overloaded(detail="full"), ShuttingDown(), DeadlineExceeded(detail="nothing was done")]


@pytest.fixture
def enter() -> Iterator[Callable[[Any], Any]]:
    with ExitStack() as stack:
        yield stack.enter_context


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda error: error.name)
def test_a_refusal_is_not_passed_on_after_another_balancer_had_the_call(
    enter: Callable[[Any], Any], refusal: RatelError
) -> None:
    first = enter(FakeBalancer(takes_leave, lambda: not first.calls))
    second = enter(FakeBalancer(refuses(refusal), lambda: first.calls > 0))
    client = enter(ZmqClient([first.address, second.address], timeout_s=10))
    with pytest.raises(DeadlineExceeded, match="whether it was carried out is unknown"):
        client.call("DebitBalance", {"Subject": "one", "Amount": 1})
    assert (first.calls, second.calls) == (1, 1)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda error: error.name)
def test_a_refusal_of_the_only_balancer_that_had_the_call_is_passed_on(
    enter: Callable[[Any], Any], refusal: RatelError
) -> None:
    balancer = enter(FakeBalancer(refuses(refusal)))
    client = enter(ZmqClient(balancer.address, timeout_s=10))
    with pytest.raises(type(refusal), match=str(refusal)):
        client.call("DebitBalance", {"Subject": "one", "Amount": 1})
    assert balancer.calls == 1
