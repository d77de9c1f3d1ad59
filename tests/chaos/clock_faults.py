"""Clocks that jump: that of the store's host, which decides what is too late, and that of a rater's."""

from __future__ import annotations

from random import Random
from typing import Final

from tests.chaos.fault import Fault, Scene, Undo

STORE_JUMPS_S: Final = (-45, -10, -3, 3, 10, 45)
"""Ahead by 45 s is beyond every deadline, and below the 65 s that a token of the balancer's own lives at
least: beyond that a request without a key may be done twice if its rater is late at that moment, and beyond
a day one with a key, which are limits said out loud."""
RATER_JUMPS_S: Final = tuple(sign * jump_s for jump_s in (3, 3_600, 86_400) for sign in (1, -1))
"""A rater goes by its monotonic clock, so any may come."""


def _store_clock_jumps(scene: Scene, random: Random) -> Undo:
    """It jumps, and in the end jumps back. Never together with another fault.

    Raters learn where it stands at their next heartbeat, and until then their deadlines are off by the jump.
    Ahead, they refuse what is in time, and clients ask again. Back, the script takes what is late; but what
    is late is dropped by the rater's own clock before, unless it is stopped or cut off from the store between
    that look and the script's. That takes a second fault in the same second.
    """
    scene.cluster.move_store_clock(random.choice(STORE_JUMPS_S))
    return lambda: scene.cluster.move_store_clock(0)


def _rater_clock_jumps(scene: Scene, random: Random) -> Undo:
    """One rater's, again and again, and in the end to where it was: nothing may come of it."""
    clock = scene.cluster.rater_clock
    assert clock is not None
    clock.move_to(random.choice(RATER_JUMPS_S))
    return lambda: clock.move_to(0)


CLOCK_FAULTS: Final = (
    Fault("store clock jumps", "store", _store_clock_jumps, (0.5, 3.0), group=False, clock=True, alone=True),
    Fault("rater clock jumps", "clock", _rater_clock_jumps, (0.5, 3.0), clock=True),
)
