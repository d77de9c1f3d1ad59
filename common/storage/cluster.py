"""The connection to a cluster of stores: each command goes to the node that serves its key.

It is used as a `StoreConnection` is, by one thread: a batch goes out as one pipeline to each node
concerned, to all of them before a reply is read from any, so it costs one round trip. What a node did not
do because the slot is, or is about to be, another's, goes there within the same call.

What becomes of a command is its own affair, since the nodes fail one by one. One that can't be done now is
answered with an error as its reply, and the others are done: with the node's own word (`TRYAGAIN` while the
keys of a slot are on their way, `CLUSTERDOWN`, …), or with `NodeLost`. With `patience_ms` what was surely
not done is tried again for so long before that. StoreUnavailable is raised only when no node at all
answers.

Every node has its own clock. A deadline that a script compares with it must be by that clock, wherever the
command ends up: such commands come as `Timed`, with the deadlines by our monotonic clock, and are set for
the node that they go to. The clocks are measured on every new connection and with every
`leave_old_primary`.

WAIT and WAITAOF wait for what their own connection wrote: they go to each node behind its changes, and each
change is told what its node said.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from redis.exceptions import ResponseError

from common.addresses import Address
from common.errors import StoreUnavailable
from common.storage.cluster_map import (
    parse_cluster_url,
    parse_redirect,
)
from common.storage.cluster_node import Node, Parcel
from common.storage.cluster_nodes import ClusterNodes
from common.storage.cluster_trip import NO_WAITS, ClusterCommand, NodeLost, Trip, Unit, Waits, units_of
from common.storage.store import (
    DEFAULT_TIMEOUT_MS,
    NOT_DONE,
    Command,
    Reply,
    StoreConnection,
    clock_offset_us,
)
from common.storage.store_url import StoreUrlError, describe_store_url

MAX_TRIPS: Final = 5
"""Round trips for one batch that is sent from one node to the next. A slot's move takes one or two."""

AGAIN_AFTER_S: Final = 0.01
"""Pause before what was refused for now is tried again, for those who have patience."""


class ClusterConnection:
    """For one thread. `patience_ms` is the time-out where it is not given; a rater, which has other things to
    do than to wait for one node, has none."""

    number: Final = 1
    """For users of `StoreConnection`, who measure the clock when this changes: that is done in here."""

    def __init__(
        self, url: str, *, timeout_ms: int = DEFAULT_TIMEOUT_MS, patience_ms: int | None = None
    ) -> None:
        try:
            parsed = parse_cluster_url(url)
        except ValueError as error:
            raise StoreUrlError(f"not a store's URL: {describe_store_url(url)}: {error}") from None
        self.where = describe_store_url(url)
        """The store's address, fit for logs and messages."""
        self._timeout_s = timeout_ms / 1000
        self._patience_s = self._timeout_s if patience_ms is None else patience_ms / 1000
        self._nodes = ClusterNodes(parsed, self.where, timeout_ms)
        self._trips: deque[Trip] = deque()

    # --- batches --------------------------------------------------------------------------------------

    def execute(self, commands: Sequence[ClusterCommand]) -> list[Reply]:
        """Send all commands, return all replies in order. Raises StoreUnavailable when no node answers."""
        return self.receive(self.send(commands)).replies if commands else []

    def send(
        self,
        commands: Sequence[ClusterCommand],
        *,
        changes: int = 0,
        waits: Waits = NO_WAITS,
        loads: Sequence[Command] = (),
    ) -> Trip:
        """Send all commands. `waits` go behind the first `changes` of them, to each of their nodes; `loads`
        to nodes that turn out not to know a script. Raises StoreUnavailable when no node answers."""
        trip = Trip(len(commands), waits, loads)
        if not self._nodes.owners:
            self._nodes.refresh()
        self._send(trip, units_of(commands, changes))
        self._trips.append(trip)
        return trip

    def receive(self, trip: Trip) -> Trip:
        """The batch with its replies. Others may be under way; each is received once.

        Raises StoreUnavailable when no node answers.
        """
        patient_until_s = time.monotonic() + self._patience_s
        trips = 1
        try:
            while True:
                again, later = self._take(trip)
                if trips >= MAX_TRIPS:
                    again, later = [], again + later
                if later and time.monotonic() < patient_until_s:
                    time.sleep(AGAIN_AFTER_S)
                    self._nodes.refresh_after_loss()
                    again, trips = again + later, 0
                if not again:
                    break
                trips += 1
                self._send(trip, again)
            if trip.has_lost and not self._nodes.refresh_after_loss() and trip.is_all_lost:
                raise StoreUnavailable(detail=self._nodes.problem)
            return trip
        finally:
            self._trips.remove(trip)

    @property
    def unread(self) -> int:
        """How many batches were sent and not received."""
        return len(self._trips)

    def fileno(self) -> int:
        """The descriptor that becomes readable when replies come from some node; -1 when none is open."""
        return self._nodes.fileno()

    @property
    def has_input(self) -> bool:
        """Whether some of the unread replies are in this process already, and `fileno` may stay silent."""
        return self._nodes.has_input

    # --- what goes with a connection -------------------------------------------------------------------

    def leave_old_primary(self) -> None:
        """Who serves what, and what time is it there? Call it often: a primary that hung, or was cut off
        together with us, takes itself for one for a while. Raises StoreUnavailable."""
        self._nodes.refresh()

    def connect_all(self) -> None:
        """Connect to all primaries that answer, which measures their clocks."""
        self._nodes.connect_all()

    def measure_clocks(self) -> int:
        """Measure all nodes' clocks; by how many µs one was set forward, now or in the last seconds."""
        return self._nodes.measure_clocks()

    def survey(self) -> dict[Address, str]:
        """Each primary with what it holds, see `holdings`. Raises StoreUnavailable unless all answer."""
        return self._nodes.survey()

    @property
    def primaries(self) -> list[Address]:
        """Those that serve slots, as far as it is known, in the order of their addresses."""
        return self._nodes.primaries

    @property
    def round_trip_us(self) -> int:
        """Of the node that took longest when all were asked for the time, or were connected to; 0 is not
        known."""
        return self._nodes.round_trip_us

    def clock_offset_us(self, mono_us: Callable[[], int]) -> int:
        """As a `StoreConnection` has it, of the node that is asked for times."""
        return clock_offset_us(self.execute, self.where, mono_us)

    def part(self, address: Address) -> StoreConnection:
        """The connection to one node, for what is asked of a node and not of a key."""
        node = self._nodes.at(address)
        node.prepare()
        return node.connection

    def close(self) -> None:
        self._nodes.close()

    def __enter__(self) -> ClusterConnection:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # --- inside: a round trip --------------------------------------------------------------------------

    def _send(self, trip: Trip, units: list[Unit]) -> None:
        groups: dict[Node, list[Unit]] = {}
        for unit in units:
            node = unit.asked or self._nodes.owners[unit.slot]
            if node is None:
                error = ResponseError(f"CLUSTERDOWN no node serves slot {unit.slot}")
                trip.replies[unit.at : unit.at + len(unit.commands)] = [error] * len(unit.commands)
                trip.unsent.append(unit)
            else:
                groups.setdefault(node, []).append(unit)
        trip.deliveries = []
        for node, group in groups.items():
            try:
                node.prepare()
            except StoreUnavailable as error:
                trip.lose(group, NodeLost(error))
                trip.unsent += group
                continue
            commands: list[Command] = []
            if has_loads := node.wants_scripts and bool(trip.loads):
                commands += trip.loads
                node.wants_scripts = False
            for unit in group:
                commands += unit.for_node(node.offset_us)
            if trip.waits.commands and any(unit.is_change for unit in group):
                is_vain = node.replicas < trip.waits.replicas
                commands += trip.waits.in_vain if is_vain else trip.waits.commands
            try:
                parcel = node.send(commands)
            except StoreUnavailable as error:
                trip.lose(group, NodeLost(error))
                continue
            parcel.has_loads = has_loads
            trip.deliveries.append((node, group, parcel))

    def _take(self, trip: Trip) -> tuple[list[Unit], list[Unit]]:
        """Take the replies: what is to be sent again at once, and what later."""
        again: list[Unit] = []
        later, trip.unsent = trip.unsent, []
        give_up_s = time.monotonic() + self._timeout_s
        for node, group, parcel in trip.deliveries:
            node.take(parcel, give_up_s)
            if parcel.lost is not None:
                trip.lose(group, NodeLost(parcel.lost))
            else:
                self._sort(trip, node, group, parcel, again, later)
        for unit in later:
            unit.asked = None
        return again, later

    def _sort(
        self,
        trip: Trip,
        node: Node,
        group: list[Unit],
        parcel: Parcel,
        again: list[Unit],
        later: list[Unit],
    ) -> None:
        replies = parcel.replies
        assert replies is not None
        at = 0
        if parcel.has_loads:
            at = len(trip.loads)
        confirmed = replies[-1]
        for unit in group:
            at += unit.asked is not None
            size = len(unit.commands)
            trip.replies[unit.at : unit.at + size] = replies[at : at + size]
            at += size
            trip.confirmed[unit.at] = confirmed
            if parcel.was_redirected:
                self._follow(trip, node, unit, again, later)

    def _follow(self, trip: Trip, node: Node, unit: Unit, again: list[Unit], later: list[Unit]) -> None:
        """Where a command is to go that was not done."""
        replies = trip.replies[unit.at : unit.at + len(unit.commands)]
        errors = [str(reply) for reply in replies if isinstance(reply, ResponseError)]
        error = next((text for text in errors if text.startswith(NOT_DONE) and text[:9] != "EXECABORT"), "")
        if not error:
            return
        redirect = parse_redirect(error, node.address)
        was_asked, unit.asked = unit.asked, None
        if redirect is not None:
            target = self._nodes.at(redirect.address)
            if redirect.is_ask:
                unit.asked = target
            else:
                self._nodes.owners[redirect.slot] = target
            again.append(unit)
        elif error.startswith("NOSCRIPT") and trip.loads:
            node.wants_scripts, unit.asked = True, was_asked
            again.append(unit)
        else:
            later.append(unit)
