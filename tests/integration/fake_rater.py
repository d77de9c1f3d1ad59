"""A rater without a store: a thread that speaks the wire protocol and does what the test says.

`respond` makes the reply to an item, or None to hold the item back until `release`. Run as a script
(`python fake_rater.py PORT`) it answers everything with `1`, to measure the balancer alone.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import zmq

from common.wire import (
    HEARTBEAT_MS,
    Kind,
    Reply,
    WorkItem,
    decode,
    encode_done,
    encode_goodbye,
    encode_leave,
    encode_state,
)

Respond = Callable[[WorkItem], Reply | None]
PATIENCE_S = 30.0


def answer_one(item: WorkItem) -> Reply | None:
    return Reply(item.seq, 0, b"1", False)


def echo(item: WorkItem) -> Reply | None:
    return Reply(item.seq, 0, item.params, bool(item.key))


def hold(item: WorkItem) -> Reply | None:
    return None


class FakeRater:
    def __init__(
        self,
        port: int,
        respond: Respond = answer_one,
        *,
        name: str = "fake",
        credit: int = 1000,
        epoch: int = 7,
    ) -> None:
        self.respond = respond
        self.name = name
        self.credit = credit
        self.epoch = epoch
        self.beating = True
        self.received: list[WorkItem] = []
        self.frame_sizes: list[int] = []
        """How many items each WORK message had."""
        self.held: list[WorkItem] = []
        self.drained = False
        self.joined = False
        """The balancer has beaten back."""
        self._port = port
        self._changed = threading.Condition()
        self._orders: list[bytes] = []
        self._stop = False
        self._linger_ms = 200
        self._thread = threading.Thread(target=self._run, name=name)
        self._thread.start()

    def __enter__(self) -> FakeRater:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- what tests ask for ------------------------------------------------------------------

    def wait_for(self, condition: Callable[[FakeRater], object]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), PATIENCE_S), f"{self.name}: in vain"

    def wait_for_items(self, count: int) -> list[WorkItem]:
        self.wait_for(lambda rater: len(rater.received) >= count)
        return list(self.received)

    def release(self) -> None:
        """Answer all that is held, and from now on everything."""
        self.respond = answer_one
        self._orders.append(b"release")

    def leave(self) -> None:
        self._orders.append(encode_leave())

    def goodbye(self) -> None:
        self._orders.append(encode_goodbye())

    def send_raw(self, frame: bytes) -> None:
        self._orders.append(frame)

    def announce(self, *, epoch: int) -> None:
        """Beat at once with another tariff."""
        self.epoch = epoch
        self._orders.append(encode_state(self.name, self.credit, epoch))

    def kill(self) -> None:
        """Gone, without a word."""
        self._linger_ms = 0
        self.stop()

    def stop(self) -> None:
        self._stop = True
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    # --- the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, f"{self.name}-{id(self)}".encode())
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.connect(f"tcp://127.0.0.1:{self._port}")
        next_beat = 0.0
        while not self._stop:
            if self.beating and time.monotonic() >= next_beat:
                next_beat = time.monotonic() + HEARTBEAT_MS / 1000
                self._socket.send(encode_state(self.name, self.credit, self.epoch))
            self._obey()
            if self._socket.poll(10):
                frames = []
                while self._socket.getsockopt(zmq.EVENTS) & int(zmq.POLLIN):  # type: ignore[operator]
                    frames.append(self._socket.recv())
                with self._changed:
                    for frame in frames:
                        self._take(*decode(frame))
                    self._changed.notify_all()
        if self._linger_ms:
            self._obey()
        self._socket.close(linger=self._linger_ms)
        context.term()

    def _obey(self) -> None:
        while self._orders:
            order = self._orders.pop(0)
            if order != b"release":
                self._socket.send(order)
            elif self.held:
                held, self.held = self.held, []
                self._socket.send(
                    encode_done(self._balancer_id, [Reply(i.seq, 0, b"1", False) for i in held])
                )

    def _take(self, kind: Kind, fields: list[Any]) -> None:
        self.joined = True
        if kind is Kind.DRAINED:
            self.drained = True
        if kind is not Kind.WORK:
            return
        self._balancer_id = fields[0]
        items = [WorkItem(*row) for row in fields[2]]
        self.frame_sizes.append(len(items))
        self.received += items
        replies = []
        for item in items:
            reply = self.respond(item)
            if reply is None:
                self.held.append(item)
            else:
                replies.append(reply)
        if replies:
            self._socket.send(encode_done(self._balancer_id, replies))


def serve_for_ever(port: int) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(f"tcp://127.0.0.1:{port}")
    while True:
        dealer.send(encode_state("fake", 4096, 1))
        next_beat = time.monotonic() + HEARTBEAT_MS / 1000
        while time.monotonic() < next_beat:
            if dealer.poll(50):
                kind, fields = decode(dealer.recv())
                if kind is Kind.WORK:
                    replies = [Reply(row[0], 0, b'{"Cost":540}', False) for row in fields[2]]
                    dealer.send(encode_done(fields[0], replies))


if __name__ == "__main__":
    serve_for_ever(int(sys.argv[1]))
