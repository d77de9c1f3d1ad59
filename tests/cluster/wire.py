"""Cables between network namespaces, with latency, jitter and loss, that can be cut: one process for all.

`tc netem` does it where the kernel has that module; many that run tests have not. So each end of a cable is a
TUN device in its namespace, and this process carries every packet from one end to the other: some
milliseconds late, and now and then not at all. Packets may overtake each other, as with netem.

    python -m tests.cluster.wire DELAY_MS JITTER_MS LOSS NAME:NAMESPACE/DEVICE:NAMESPACE/DEVICE …

Says "ready" when all devices are there, then takes lines from stdin: `cut NAME`, `mend NAME`, and answers
each with "ok". A cable that is cut swallows everything without a word. At the end of stdin it says, as
JSON, how many packets it carried, lost and swallowed; the devices end with it.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import itertools
import json
import os
import random
import select
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
"""Whole IP packets, and nothing before them. Source: linux/if_tun.h."""

PACKET_BYTES = 65_536
MAX_UNDER_WAY = 20_000
"""Packets on all cables: the clients of a test send one request at a time, so this is never reached."""

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Have this thread, and the threads and processes that it starts, in that network namespace."""
    with Path("/proc/thread-self/ns/net").open() as before:
        with Path(f"/run/netns/{namespace}").open() as other:
            _setns(other.fileno())
        try:
            yield
        finally:
            _setns(before.fileno())


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def make_device(namespace: str, device: str) -> int:
    """A TUN device there: its descriptor."""
    with inside(namespace):
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
    return fd


class Wires:
    def __init__(self, delay_ms: float, jitter_ms: float, loss: float) -> None:
        self._delay_s, self._jitter_s, self._loss = delay_ms / 1000, jitter_ms / 1000, loss
        self._random = random.Random(1)
        self._other_end: dict[int, int] = {}
        self._name: dict[int, str] = {}
        self._cut: set[str] = set()
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._number = itertools.count()
        self._epoll = select.epoll()
        self.counts: Counter[str] = Counter()

    def add(self, name: str, one: int, other: int) -> None:
        self._other_end |= {one: other, other: one}
        self._name |= {one: name, other: name}
        for fd in (one, other):
            self._epoll.register(fd, select.EPOLLIN)

    def run(self) -> None:
        """Until the end of stdin."""
        self._epoll.register(0, select.EPOLLIN)
        while True:
            wait_s = max(0.0, self._under_way[0][0] - time.monotonic()) if self._under_way else -1
            for fd, _ in self._epoll.poll(wait_s):
                if fd:
                    self._take(fd)
                elif not self._obey():
                    return
            self._deliver(time.monotonic())

    def _obey(self) -> bool:
        for line in os.read(0, 65_536).decode().splitlines() or [""]:
            verb, _, name = line.partition(" ")
            if not verb:
                return False
            (self._cut.add if verb == "cut" else self._cut.discard)(name)
            print("ok", flush=True)
        return True

    def _take(self, fd: int) -> None:
        while True:
            try:
                packet = os.read(fd, PACKET_BYTES)
            except BlockingIOError:
                return
            if self._name[fd] in self._cut:
                self.counts["swallowed"] += 1
            elif self._random.random() < self._loss or len(self._under_way) >= MAX_UNDER_WAY:
                self.counts["lost"] += 1
            else:
                late_s = self._delay_s + self._random.uniform(-self._jitter_s, self._jitter_s)
                due_s = time.monotonic() + late_s
                entry = (due_s, next(self._number), self._other_end[fd], packet)
                heapq.heappush(self._under_way, entry)

    def _deliver(self, now_s: float) -> None:
        while self._under_way and self._under_way[0][0] <= now_s:
            _, _, fd, packet = heapq.heappop(self._under_way)
            if self._name[fd] in self._cut:
                self.counts["swallowed"] += 1
                continue
            try:
                os.write(fd, packet)
                self.counts["carried"] += 1
            except OSError:  # the device is down, or its queue is full
                self.counts["lost"] += 1


def main() -> None:
    delay_ms, jitter_ms, loss = map(float, sys.argv[1:4])
    wires = Wires(delay_ms, jitter_ms, loss)
    for cable in sys.argv[4:]:
        name, one, other = cable.split(":")
        wires.add(name, *(make_device(*end.split("/")) for end in (one, other)))
    print("ready", flush=True)
    wires.run()
    print(json.dumps(wires.counts), flush=True)


if __name__ == "__main__":
    main()
