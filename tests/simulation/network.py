"""The network between a rater and a balancer, in one of two kinds of bad.

A *stream* keeps order and loses nothing until it breaks: then a suffix of each direction is lost, and
the rater connects anew. Hosts and ways may vanish without a word: then nothing arrives until the
connection is given up. A *datagram* world is worse than any that ZeroMQ can make: each message by
itself is lost, late, doubled and overtaken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.simulation.balancer import Balancer
    from tests.simulation.rater import Rater
    from tests.simulation.world import World

MS: Final = 1000
GIVE_UP_US: Final = 2_000 * MS
"""Both sides end a connection on which nothing came for this long."""

HIGH_WATER_MESSAGES: Final = 30
"""A sender whose way is blocked finds its queue full some time."""

Deliver = Callable[..., None]


class Way:
    """One direction."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._pending: dict[int, tuple[Deliver, tuple[object, ...]]] = {}
        self._sent = 0
        self._last_arrival_us = 0
        self.blocked_until_us = 0

    @property
    def full(self) -> bool:
        return len(self._pending) >= HIGH_WATER_MESSAGES

    def send(self, deliver: Deliver, *message: object) -> None:
        world = self._world
        if world.healed or not world.weather.datagrams:
            arrival_us = max(world.now_us + world.delay_us(), self.blocked_until_us, self._last_arrival_us)
            self._last_arrival_us = arrival_us
            self._put(arrival_us, deliver, message)
            return
        for _ in range(1 + world.chance(world.weather.repeats)):
            if not world.chance(world.weather.loss):
                self._put(max(world.now_us + world.delay_us(), self.blocked_until_us), deliver, message)

    def _put(self, arrival_us: int, deliver: Deliver, message: tuple[object, ...]) -> None:
        self._sent += 1
        self._pending[self._sent] = deliver, message
        self._world.at_time(arrival_us, self._arrive, self._sent)

    def _arrive(self, number: int) -> None:
        if number not in self._pending:
            return  # the connection broke meanwhile
        wait_us = self.blocked_until_us - self._world.now_us
        if wait_us > 0:
            self._world.at(wait_us, self._arrive, number)
            return
        deliver, message = self._pending.pop(number)
        deliver(*message)

    def cut(self) -> None:
        """The connection is gone: some that were sent first have arrived, the others never will."""
        pending = list(self._pending.values())
        self._pending.clear()
        self._last_arrival_us = 0
        if self.blocked_until_us <= self._world.now_us:
            for deliver, message in pending[: self._world.below(len(pending) + 1)]:
                deliver(*message)


class Link:
    """What connects one life of a rater with one life of a balancer."""

    def __init__(self, world: World, rater: Rater, balancer: Balancer) -> None:
        self._world = world
        self.rater = rater
        self.balancer = balancer
        self.to_rater = Way(world)
        self.to_balancer = Way(world)
        self.up = False
        """The rater's view: it sends nothing while the balancer is away."""
        self.routable = False
        """The balancer's view."""
        self._term = 0

    def connect(self) -> None:
        """Until it succeeds: as soon as the way is free again."""
        if self.up or not (self.rater.alive and self.balancer.alive):
            return
        free_us = max(self.to_rater.blocked_until_us, self.to_balancer.blocked_until_us)
        if free_us > self._world.now_us:
            self._world.at_time(free_us + 1, self.connect)
            return
        self._term += 1
        self.up = self.routable = True

    def block(self, duration_us: int, *ways: Way) -> None:
        """Nothing gets through in some directions; what was sent arrives later, if the connection lasts."""
        for way in ways:
            way.blocked_until_us = self._world.now_us + duration_us
        if duration_us > GIVE_UP_US:
            self._world.at(GIVE_UP_US, self._give_up, self._term)

    def _give_up(self, term: int) -> None:
        if term == self._term:
            self.cut()

    def cut(self) -> None:
        """Both sides notice at once."""
        if not self.routable:
            return
        self.to_rater.cut()
        self.to_balancer.cut()
        self.up = self.routable = False
        self.balancer.notice_disconnect()
        self._world.at(50 * MS + self._world.below(450 * MS), self.connect)

    def vanish(self) -> None:
        """The rater's host is gone without a word: the balancer notices when nothing comes for long."""
        self.up = False
        self.to_balancer.cut()
        self._world.at(GIVE_UP_US, self._give_up, self._term)
