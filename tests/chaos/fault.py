"""What a fault is: it begins, is held for a while, and is undone.

`begin` does it and returns what undoes it. All choices that it makes come from the random numbers that
it is given, so a seed always means the same faults.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from tests.chaos.cluster import Cluster
from tests.faults.nodes import Node

Undo = Callable[[], None]


class Scene(NamedTuple):
    """What faults are done to."""

    cluster: Cluster
    clients: list[Node]


class Fault(NamedTuple):
    name: str
    part: str
    """What it strikes: of two at a time, each strikes another."""
    begin: Callable[[Scene, Random], Undo]
    hold_s: tuple[float, float]
    single: bool = True
    """Possible with a single store,"""
    group: bool = True
    """and with a group of them."""
    clock: bool = False
    """It moves a clock, which takes libfaketime."""
    gateways: bool = False
    """Possible only where clients go through gateways."""
    alone: bool = False
    """Never at the same time as another: together they could do what is a limit said out loud."""


def nothing() -> None:
    pass


def stopped(choose: Callable[[Scene, Random], Node]) -> Callable[[Scene, Random], Undo]:
    """SIGSTOP, and SIGCONT in the end."""

    def begin(scene: Scene, random: Random) -> Undo:
        node = choose(scene, random)
        node.pause()
        return node.resume

    return begin
