"""The nodes of a cluster: who serves which slot, and what time it is there, as far as they can be asked."""

from __future__ import annotations

import logging
import select
import time
from contextlib import suppress
from itertools import repeat
from typing import Final

from redis.exceptions import ResponseError

from common.addresses import Address
from common.clock import monotonic_us
from common.errors import StoreUnavailable
from common.storage.cluster_map import SLOTS, ClusterUrl, View, holdings, newest, parse_view
from common.storage.cluster_node import STATE, Node, ask
from common.storage.store import Command, Reply

log = logging.getLogger(__name__)

REFRESH_S: Final = 0.1
"""Nodes are asked who serves what no more often than this while one is out of reach."""

MAX_ASKED: Final = 5
"""Nodes that are asked at a time: of so many one at least is up to date."""

JUMP_MEMORY_S: Final = 10.0
"""How long a step of a node's clock is told of: longer than any batch is under way."""

_SURVEY: Final[list[Command]] = [("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"), *STATE]


class ClusterNodes:
    def __init__(self, url: ClusterUrl, where: str, timeout_ms: int) -> None:
        self.owners: list[Node | None] = []
        """By slot; empty before any node was asked."""
        self.problem = ""
        """Why no node answered when they were asked last; empty when one did."""
        self._url = url
        self._where = where
        self._timeout_ms = timeout_ms
        self._nodes: dict[Address, Node] = {}
        self._ranges: tuple[tuple[int, int, Address], ...] = ()
        self._refreshed_s = 0.0
        self._watched: dict[int, tuple[Address, int]] = {}
        """The sockets that are polled, each with its node and the number of the connection."""
        self._epoll: select.epoll | None = None
        self._jump: tuple[float, int] = (0.0, 0)
        for seed in url.seeds:  # a wrong URL is found now, not at the first batch
            self._new_node(seed)

    def at(self, address: Address) -> Node:
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = self._new_node(address)
        return node

    def refresh_after_loss(self) -> bool:
        """Learn who serves what, unless that was done just now; whether any node answers."""
        if time.monotonic() - self._refreshed_s < REFRESH_S:
            return not self.problem
        try:
            self.refresh()
        except StoreUnavailable:
            return False
        return True

    def refresh(self) -> None:
        """Learn who serves what, and what time it is there. Raises StoreUnavailable when nobody answers."""
        views = self._ask_open_nodes(MAX_ASKED)
        problems: list[str] = []
        give_up_s = time.monotonic() + self._timeout_ms / 1000
        for address in dict.fromkeys([*self._nodes, *self._url.seeds]):
            if views or time.monotonic() > give_up_s:
                break
            try:
                info, slots, *_ = ask(self._url.node_url(address), _SURVEY)
                views.append(_view(info, slots, address))
            except StoreUnavailable as error:
                problems.append(str(error.data["detail"]))
        self._refreshed_s = time.monotonic()
        if not views:
            self.problem = f"{self._where}: no node answers: {'; '.join(problems)}"
            raise StoreUnavailable(detail=self.problem)
        self.problem = ""
        self._adopt(newest(views))

    def measure_clocks(self) -> int:
        """Measure all nodes' clocks; by how many µs one was set forward, now or in the last seconds."""
        self._ask_open_nodes(0)
        at_s, step_us = self._jump
        return step_us if time.monotonic() - at_s < JUMP_MEMORY_S else 0

    def connect_all(self) -> None:
        for address in self.primaries:
            with suppress(StoreUnavailable):
                self.at(address).prepare()

    @property
    def primaries(self) -> list[Address]:
        return sorted({address for *_, address in self._ranges})

    @property
    def round_trip_us(self) -> int:
        """The longest, of the nodes that we are connected to."""
        return max((node.round_trip_us for node in self._nodes.values() if node.is_open), default=0)

    def survey(self) -> dict[Address, str]:
        """Each primary with what it holds, see `holdings`. Raises StoreUnavailable unless all answer."""
        self.refresh()
        nodes = list(dict.fromkeys(node for node in self.owners if node is not None))
        return {node.address: holdings(self._ask(node, [("CLUSTER", "NODES")])[0]) for node in nodes}

    def fileno(self) -> int:
        """Of what becomes readable when one of the nodes has replied; -1 when there is none."""
        sockets = {
            node.connection.fileno(): (node.address, node.connection.number) for node in self._nodes.values()
        }
        sockets.pop(-1, None)
        if sockets != self._watched:
            if self._epoll is not None:
                self._epoll.close()
            self._epoll = select.epoll()
            for socket in sockets:
                self._epoll.register(socket, select.EPOLLIN)
            self._watched = sockets
        return -1 if self._epoll is None or not sockets else self._epoll.fileno()

    @property
    def has_input(self) -> bool:
        return any(node.connection.has_input for node in self._nodes.values())

    def close(self) -> None:
        for node in self._nodes.values():
            node.close()
        self._nodes.clear()
        if self._epoll is not None:
            self._epoll.close()
            self._epoll, self._watched = None, {}
        self.owners = []
        self._ranges = ()

    # --- inside ---------------------------------------------------------------------------------------

    def _ask_open_nodes(self, views_wanted: int) -> list[View]:
        """Ask all that we are connected to what time it is, and so many of them for their view of the
        cluster."""
        deliveries = []
        for number, node in enumerate([node for node in self._nodes.values() if node.is_open]):
            commands = _SURVEY if number < views_wanted else STATE
            asked_us = monotonic_us()
            with suppress(StoreUnavailable):
                deliveries.append((node, node.send(commands), asked_us))
        views = []
        give_up_s = time.monotonic() + self._timeout_ms / 1000
        for node, parcel, asked_us in deliveries:
            node.take(parcel, give_up_s)
            if parcel.replies is None:
                continue
            role, clock = parcel.replies[-len(STATE) :]
            self._see_state(node, role, clock, asked_us)
            if len(parcel.replies) > len(STATE):
                with suppress(StoreUnavailable):
                    views.append(_view(parcel.replies[0], parcel.replies[1], node.address))
        return views

    def _adopt(self, view: View) -> None:
        owners: list[Node | None] = [None] * SLOTS
        for first, last, address in view.ranges:
            owners[first : last + 1] = repeat(self.at(address), last + 1 - first)
        if self._ranges != view.ranges:
            primaries = sorted({str(address) for *_, address in view.ranges})
            log.info("store=%s epoch=%s primaries=%s", self._where, view.epoch, ",".join(primaries))
        self._ranges, self.owners = view.ranges, owners
        for address in self._nodes.keys() - {address for *_, address in view.ranges}:
            if self._nodes[address].is_idle:
                self._nodes.pop(address).close()

    def _new_node(self, address: Address) -> Node:
        return Node(address, self._url.node_url(address), self._timeout_ms)

    def _ask(self, node: Node, commands: list[Command]) -> list[Reply]:
        node.prepare()
        parcel = node.send(commands)
        node.take(parcel, time.monotonic() + self._timeout_ms / 1000)
        if parcel.lost is not None:
            raise parcel.lost
        assert parcel.replies is not None
        for reply in parcel.replies:
            if isinstance(reply, ResponseError):
                raise StoreUnavailable(detail=f"{node.connection.where}: {reply}")
        return parcel.replies

    def _see_state(self, node: Node, role: Reply, clock: Reply, asked_us: int) -> None:
        step_us = node.see_state(role, clock, asked_us)
        at_s, before_us = self._jump
        now_s = time.monotonic()
        if step_us >= before_us or now_s - at_s >= JUMP_MEMORY_S:
            self._jump = (now_s, step_us)


def _view(info: Reply, slots: Reply, asked: Address) -> View:
    try:
        if isinstance(info, bytes) and isinstance(slots, list):
            return parse_view(info, slots, asked)
        problem = str(info if isinstance(info, ResponseError) else slots)
    except ValueError as error:
        problem = str(error)
    raise StoreUnavailable(detail=f"{asked}: {problem}")
