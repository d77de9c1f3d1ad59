"""One node of a cluster: its connection, its clock, and what was sent to it and is not answered yet.

A node that failed is left alone for a moment, and then first asked for a sign of life with a short
time-out: what is meant for other nodes must not wait for one that hangs.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from common.addresses import Address
from common.clock import monotonic_us
from common.errors import StoreUnavailable
from common.storage.store import Command, Reply, Sent, StoreConnection

PROBE_TIMEOUT_MS: Final = 250
"""For a node that failed, or that was never heard of. They answer within a few milliseconds."""

PAUSE_S: Final = 0.05
MAX_PAUSE_S: Final = 1.0
"""A node that failed is left alone for so long, each time twice as long: one that hangs takes at most a
quarter of the others' time, and one that is back is noticed within a second."""


STATE: Final[list[Command]] = [("ROLE",), ("TIME",)]


class Parcel:
    """Commands for one node that were sent in one go, and the replies once they are here."""

    __slots__ = ("has_loads", "lost", "replies", "sent", "was_redirected")

    def __init__(self, sent: Sent) -> None:
        self.sent = sent
        self.has_loads = False
        """Whether they begin with the loading of scripts."""
        self.replies: list[Reply] | None = None
        self.lost: StoreUnavailable | None = None
        """Why there will be none: whether the commands were carried out is unknown."""
        self.was_redirected = False
        """Whether some replies say that their command was not run."""


class Node:
    def __init__(self, address: Address, url: str, timeout_ms: int) -> None:
        self.address = address
        self.offset_us = 0
        """What to add to our monotonic clock to get the node's."""
        self.round_trip_us = 0
        """When it was last asked for its state, with what was to be read from others before."""
        self.replicas = 0
        """How many are connected to it."""
        self.wants_scripts = False
        """It answered NOSCRIPT, so the scripts are to be sent before the next commands."""
        self.connection = StoreConnection(url, timeout_ms=timeout_ms)
        self._url = url
        self._clock_of = 0
        """The number of the connection on which `offset_us` was measured."""
        self._unread: deque[Parcel] = deque()
        self._pause_s = 0.0
        self._quiet_until_s = 0.0
        self._problem = ""
        """Why it failed last."""

    @property
    def is_open(self) -> bool:
        return self.connection.number != 0

    @property
    def is_idle(self) -> bool:
        return not self._unread

    def prepare(self) -> None:
        """Make sure that there is a connection and that the clock was measured on it. Raises
        StoreUnavailable."""
        connection = self.connection
        if connection.number and connection.number == self._clock_of:
            return
        if time.monotonic() < self._quiet_until_s:
            raise StoreUnavailable(detail=self._problem)
        try:
            if self._pause_s:
                with StoreConnection(self._url, timeout_ms=PROBE_TIMEOUT_MS) as probe:
                    probe.execute([("TIME",)])
            asked_us = monotonic_us()
            role, clock = connection.execute(STATE)
            if not isinstance(clock, list):
                raise StoreUnavailable(detail=f"{connection.where}: {clock}")
        except StoreUnavailable as error:
            self.fail(error)
            raise
        self.see_state(role, clock, asked_us)
        self._clock_of = connection.number
        self._pause_s = 0.0

    def send(self, commands: Sequence[Command]) -> Parcel:
        """Raises StoreUnavailable: then what was sent before is lost, too, and of this some may have
        arrived."""
        try:
            parcel = Parcel(self.connection.send(commands))
        except StoreUnavailable as error:
            self.fail(error)
            raise
        self._unread.append(parcel)
        return parcel

    def take(self, parcel: Parcel, give_up_s: float) -> None:
        """Wait until the parcel has its replies, or is lost."""
        while parcel.replies is None and parcel.lost is None:
            first = self._unread[0]
            self.connection.was_redirected = False
            try:
                first.replies = self.connection.receive(first.sent, give_up_s)
            except StoreUnavailable as error:
                self.fail(error)
                return
            first.was_redirected = self.connection.was_redirected
            self._unread.popleft()
            if not self.is_open:  # it said READONLY: what was sent behind that is lost
                self._lose(StoreUnavailable(detail=f"{self.connection.where}: it is read-only"))

    def see_state(self, role: Reply, clock: Reply, asked_us: int) -> int:
        """Take in the replies to `STATE`, which was sent at `asked_us`; by how much the clock was set
        forward."""
        if isinstance(role, list) and role[0] == b"master":
            self.replicas = len(role[2])
        if not isinstance(clock, list):
            return 0
        before_us, now_us = self.offset_us, monotonic_us()
        self.round_trip_us = now_us - asked_us
        self.offset_us = int(clock[0]) * 1_000_000 + int(clock[1]) - (asked_us + now_us) // 2
        return self.offset_us - before_us

    def fail(self, error: StoreUnavailable) -> None:
        """Give the connection up, and leave the node alone for a moment."""
        self._pause_s = min(MAX_PAUSE_S, 2 * self._pause_s) or PAUSE_S
        self._quiet_until_s = time.monotonic() + self._pause_s
        self._problem = str(error.data["detail"])
        self.connection.close()
        self._lose(error)

    def close(self) -> None:
        self.connection.close()
        self._lose(StoreUnavailable(detail=f"{self.connection.where}: closed"))

    def _lose(self, error: StoreUnavailable) -> None:
        for parcel in self._unread:
            parcel.lost = error
        self._unread.clear()


def ask(url: str, commands: Sequence[Command]) -> list[Reply]:
    """On a connection of its own. Raises StoreUnavailable."""
    with StoreConnection(url, timeout_ms=PROBE_TIMEOUT_MS) as connection:
        return connection.execute(commands)
