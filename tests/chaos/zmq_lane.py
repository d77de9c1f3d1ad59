"""The clients' way over ZeroMQ: `common.zmq_client` in a thread, which asks in batches as programs would."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from decimal import Decimal
from queue import Empty, SimpleQueue
from typing import Any, Final

from common.addresses import Address
from common.errors import RatelError
from common.zmq_client import ZmqClient
from tests.chaos.books import now_us
from tests.chaos.wires import Answer, number, of_error
from tests.chaos.workload import DIALLED, TENANT, Ask

IN_FLIGHT: Final = 8
"""For each front, though it goes by them: what waits while one batch is under way is the next."""

Waiting = tuple[Ask, "asyncio.Future[Answer]"]


class ZmqLane:
    in_flight = IN_FLIGHT

    def __init__(self, routers: Sequence[Address]) -> None:
        self._routers = [str(router) for router in routers]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: SimpleQueue[Waiting | None] = SimpleQueue()
        self._anew = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    async def ask(self, ask: Ask, *, drop: bool = False) -> Answer | None:
        """It has no connection that could be dropped right after sending."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._thread.start()
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._queue.put((ask, future))
        return await future

    def reset(self) -> None:
        """Another client from the next batch on."""
        self._anew = True

    def check(self) -> None:
        """The client keeps its time itself."""

    def end(self) -> None:
        self._queue.put(None)
        if self._loop is not None:
            self._thread.join()

    def _run(self) -> None:
        client = ZmqClient(self._routers)
        while batch := self._take():
            if self._anew:
                self._anew = False
                client.close()
                client = ZmqClient(self._routers)
            sent_us = now_us()
            results = client.call_many([(ask.method, _descriptor(ask)) for ask, _ in batch])
            answers = [_answer(sent_us, result) for result in results]
            assert self._loop is not None
            self._loop.call_soon_threadsafe(_settle, batch, answers)
        client.close()

    def _take(self) -> list[Waiting]:
        """All that waits, at least one; nothing at the end."""
        batch = []
        waiting = self._queue.get()
        while waiting is not None:
            batch.append(waiting)
            try:
                waiting = self._queue.get_nowait()
            except Empty:
                break
        return batch


def _descriptor(ask: Ask) -> dict[str, Any]:
    key = {"RequestId": ask.id} if ask.keyed else {}
    amount = Decimal(number(ask.amount))
    account = {"CstmId": TENANT, "Subject": ask.subject, "DestinationPrefix": DIALLED}
    return account | {"Amount": amount} | key


def _answer(sent_us: int, result: Any) -> Answer:
    """The text as it was received: it has six decimals at most, so none has an exponent."""
    if isinstance(result, RatelError):
        return of_error(sent_us, result.code, result.message)
    return Answer(sent_us, 0, str(result))


def _settle(batch: Sequence[Waiting], answers: Sequence[Answer]) -> None:
    for (_, future), answer in zip(batch, answers, strict=True):
        future.set_result(answer)
