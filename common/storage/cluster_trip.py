"""A batch of commands on its way through a cluster: its parts, and what has become of them so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from redis.exceptions import ResponseError

from common.errors import StoreUnavailable
from common.storage.cluster_map import key_of, slot_of
from common.storage.cluster_node import Node, Parcel
from common.storage.store import Command, Reply

HOME_KEY: Final = "ratel:raters"
"""What names no key, TIME above all, is for the node that serves this one, whose times are compared."""

_HOME_SLOT: Final = slot_of(HOME_KEY)


NODE_LOST: Final = "NODELOST "


class NodeLost(ResponseError):
    """The reply to a command whose node can't be reached, or broke off. Its text begins with NODELOST."""

    def __init__(self, error: StoreUnavailable) -> None:
        super().__init__(f"{NODE_LOST}{error.data['detail']}")


class Waits(NamedTuple):
    """What is sent behind a batch's changes, to each of their nodes, and its last reply told."""

    commands: Sequence[Command] = ()
    replicas: int = 0
    """Where fewer are connected, waiting is in vain, and would hold up what is for other nodes:"""
    in_vain: Sequence[Command] = ()
    """is sent there, with the same replies but no patience."""


NO_WAITS: Final = Waits()


class Timed(NamedTuple):
    """A command that holds deadlines by our monotonic clock, µs, where its node's clock is meant."""

    command: Command
    places: range


ClusterCommand = Command | Timed


class Unit:
    """Commands that only make sense together, on one node: one, or a transaction."""

    __slots__ = ("asked", "at", "commands", "is_change", "places", "slot")

    def __init__(self, at: int, command: ClusterCommand, is_change: bool) -> None:
        self.at = at
        """Where the replies belong."""
        self.is_change = is_change
        if isinstance(command, Timed):
            self.commands, self.places = [command.command], command.places
        else:
            self.commands, self.places = [command], range(0)
        key = key_of(self.commands[0])
        self.slot = _HOME_SLOT if key is None else slot_of(key)
        self.asked: Node | None = None
        """Where the slot's owner said that it is to be asked for, this once."""

    def for_node(self, offset_us: int) -> list[Command]:
        commands = self.commands
        if self.places:
            words = list(commands[0])
            for place in self.places:
                words[place] += offset_us  # type: ignore[operator]
            commands = [tuple(words)]
        return [("ASKING",), *commands] if self.asked else commands


class Trip:
    """A batch on its way."""

    __slots__ = ("confirmed", "deliveries", "has_lost", "loads", "replies", "unsent", "waits")

    def __init__(self, count: int, waits: Waits, loads: Sequence[Command]) -> None:
        self.replies: list[Reply] = [None] * count
        self.confirmed: list[Reply] = [None] * count
        """What the node of each change said to the last of `waits`."""
        self.waits = waits
        self.loads = loads
        self.deliveries: list[tuple[Node, list[Unit], Parcel]] = []
        self.unsent: list[Unit] = []
        """What had no node that it could be sent to."""
        self.has_lost = False

    def lose(self, group: list[Unit], error: NodeLost) -> None:
        self.has_lost = True
        for unit in group:
            size = len(unit.commands)
            self.replies[unit.at : unit.at + size] = [error] * size

    @property
    def is_all_lost(self) -> bool:
        return all(isinstance(reply, NodeLost) for reply in self.replies)


def units_of(commands: Sequence[ClusterCommand], changes: int) -> list[Unit]:
    units: list[Unit] = []
    transaction: Unit | None = None
    for at, command in enumerate(commands):
        if transaction is not None:
            assert not isinstance(command, Timed)
            transaction.commands.append(command)
            if len(transaction.commands) == 2:
                key = key_of(command)
                assert key is not None
                transaction.slot = slot_of(key)
            if command[0] == "EXEC":
                transaction = None
            continue
        unit = Unit(at, command, at < changes)
        units.append(unit)
        if command[0] == "MULTI":
            transaction = unit
    return units
