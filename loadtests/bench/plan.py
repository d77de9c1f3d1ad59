"""What a benchmark consists of. Pure.

Each round goes through all workloads, and each workload through all its loads, so that what else happens
on the machine meets all of them alike. The limits are measured in each round, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from loadtests.bench.tariff import World


class Shape(NamedTuple):
    connections: int
    in_flight: int
    """On each connection."""

    @property
    def total(self) -> int:
        return self.connections * self.in_flight

    def __str__(self) -> str:
        return f"{self.connections}x{self.in_flight}"


def parse_shape(text: str) -> Shape:
    """`8x16`; `8` is 8x1. Raises ValueError."""
    connections, _, in_flight = text.partition("x")
    shape = Shape(int(connections), int(in_flight or "1"))
    if min(shape) < 1:
        raise ValueError(f"not connections x in flight: {text!r}")
    return shape


OPEN_IN_FLIGHT: Final = 128
"""With more than so many in flight batches are larger than those of an open loop can be: to have a thousand
requests in flight at 40,000 a second, each has to take 25 ms."""


def comparable(shapes: Sequence[Shape]) -> Sequence[Shape]:
    """The closed loops that rates of open ones are chosen by: without the largest, if there are others."""
    smallest = min(shapes, key=lambda shape: shape.total)
    return [shape for shape in shapes if shape.total <= OPEN_IN_FLIGHT] or [smallest]


class Parts(NamedTuple):
    """Processes of a cluster."""

    raters: int = 2
    gateways: int = 0
    """0: in the balancers."""
    balancers: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    workloads: tuple[str, ...]
    shapes: tuple[Shape, ...]
    """Of the closed loops over JSON-RPC."""
    http: tuple[Shape, ...]
    open_shares: tuple[float, ...]
    """Rates of the open loops, of the capacity in the same round: that of the best closed loop of those that
    are `comparable`."""
    rounds: int
    seconds: float
    requests: int
    """Different ones in a workload's pool."""
    keys: bool
    world: World

    def wires(self) -> Iterator[tuple[str, tuple[Shape, ...]]]:
        yield from ((wire, shapes) for wire, shapes in (("rpc", self.shapes), ("http", self.http)) if shapes)

    @property
    def runs(self) -> int:
        of_limits = 2 + len(self.shapes) + len(self.http)
        of_workload = sum(len(shapes) + len(self.open_shares) for _, shapes in self.wires())
        return self.rounds * (of_limits + len(self.workloads) * of_workload)
