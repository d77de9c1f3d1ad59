"""What kind of world a seed makes: how many take part, how bad the network is, which faults there are."""

from __future__ import annotations

import random
from typing import Final, NamedTuple

from balancer.dispatch import DispatchSettings
from tests.simulation.network import MS


class Weather(NamedTuple):
    balancers: int
    raters: int
    credits: tuple[int, ...]
    accounts: int
    ops: int
    burst: int
    """So many requests come at once, about."""
    keyed: float
    """How many of the clients use keys."""
    poison: float
    settings: DispatchSettings
    trouble_us: int
    """When everything is healed."""
    fault_every_us: int
    faults: tuple[str, ...]
    """Each as often as it is here."""
    datagrams: bool
    loss: float
    repeats: float
    delay_us: int
    heavy_tail: bool
    store_delay_us: int


FAULTS: Final = (
    *("kill", "vanish", "doom", "doom", "stall", "drain", "start"),
    *("cut", "cut", "block", "block"),
    *("store down", "store stall", "store full", "fail over", "fail over", "store clock"),
    *("balancer kill", "balancer stall", "balancer stall", "balancer drain"),
)


def make_weather(draw: random.Random) -> Weather:
    choice = draw.choice
    datagrams = draw.random() < 0.3
    many = draw.random() < 0.1
    return Weather(
        balancers=choice([1, 1, 2]),
        raters=choice([1, 2, 2, 3, 4]),
        credits=(40, 150) if many else (2, 8, 40),
        accounts=choice([1, 3]),
        ops=choice([120, 240]) if many else choice([10, 25, 40]),
        burst=choice([20, 120]) if many else choice([1, 2, 8]),
        keyed=choice([0.0, 0.5, 0.9]),
        poison=choice([0.0, 0.0, 0.05]),
        settings=DispatchSettings(
            deadline_us=choice([2_500, 5_000, 5_000]) * MS,
            attempt_timeout_us=choice([400, 1_500]) * MS,
            max_queued=choice([60, 200, 200]) if many else choice([10, 60]),
        ),
        trouble_us=choice([600, 1_500, 3_000]) * MS,
        fault_every_us=choice([50, 150, 400, 400, 3_000]) * MS,
        # A few kinds at a time: with all of them, hardly anything gets far enough to go wrong.
        faults=tuple(choice(FAULTS) for _ in range(choice([1, 3, 6]))),
        datagrams=datagrams,
        loss=choice([0.0, 0.05, 0.3]) if datagrams else 0.0,
        repeats=choice([0.0, 0.1]) if datagrams else 0.0,
        delay_us=choice([200, 2_000, 2_000, 20_000]),
        heavy_tail=draw.random() < 0.5,
        store_delay_us=choice([200, 2_000, 30_000]),
    )
