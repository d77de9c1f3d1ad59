"""A whole world in one heap of events: `World(seed).run()`.

Some seconds of trouble, then nothing more goes wrong, and within LIVENESS_US every client must know
what became of its request and nobody may remember any. Everything is drawn from the seed by one
generator, so the same seed makes the same world, to the last event.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from balancer.dispatch import Dispatch, DispatchSettings
from tests.simulation.balancer import Balancer
from tests.simulation.book import Book
from tests.simulation.clients import Clients
from tests.simulation.faults import Nemesis
from tests.simulation.network import MS
from tests.simulation.rater import Rater
from tests.simulation.store import Store
from tests.simulation.weather import make_weather

T = TypeVar("T")

LIVENESS_US: Final = 20_000 * MS
"""From healing on: what was asked just before ends at its deadline, and a few attempts follow."""

LOOK_US: Final = 50 * MS
MAX_DELAY_US: Final = 3_000 * MS


class Parts(NamedTuple):
    """What a world is made of: tests put faulty ones in, to see that it is noticed."""

    dispatch: Callable[[DispatchSettings], Dispatch] = Dispatch
    store: type[Store] = Store
    rater: type[Rater] = Rater


class World:
    def __init__(self, seed: int, parts: Parts | None = None) -> None:
        self.now_us = 0
        self.healed = False
        self.seen: Counter[str] = Counter()
        """What has happened: a world in which nothing does proves nothing."""
        self.trace: list[tuple[object, ...]] = []
        self._random = random.Random(seed)
        self._events: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self._lives = 0
        self._next_look_us = 0
        self._parts = parts or Parts()
        self.new_dispatch = self._parts.dispatch
        self.weather = make_weather(self._random)
        self.store = self._parts.store(self.weather.accounts, self.below(10**9))
        self.book = Book(self)
        self.balancers: list[Balancer] = []
        self.raters: list[Rater] = []
        for _ in range(self.weather.balancers):
            self._start_balancer()
        for _ in range(self.weather.raters):
            self.start_rater()
        self.clients = Clients(self)
        self._nemesis = Nemesis(self)
        self.at(self.weather.trouble_us, self._heal)

    def run(self) -> World:
        events = self._events
        end_us = self.weather.trouble_us + LIVENESS_US
        while events[0][0] <= end_us and not self._is_over():
            self.now_us, _, happen, arguments = heapq.heappop(events)
            happen(*arguments)
        self.book.check_at_end()
        for balancer in self.balancers:
            balancer.watched.check_empty()
        return self

    @property
    def events(self) -> Counter[str]:
        """All that is known to have happened, and how often."""
        return sum((balancer.watched.seen for balancer in self.balancers), self.seen)

    def _is_over(self) -> bool:
        if not self.healed or self.clients.unsettled or self.now_us < self._next_look_us:
            return False
        self._next_look_us = self.now_us + LOOK_US
        return not any(balancer.watched.dispatch._requests for balancer in self.balancers) and all(
            rater.idle for rater in self.raters if rater.alive
        )

    # --- time and chance -------------------------------------------------------------------------

    def at(self, delay_us: int, happen: Callable[..., None], *arguments: Any) -> None:
        self._order += 1
        heapq.heappush(self._events, (self.now_us + delay_us, self._order, happen, arguments))

    def at_time(self, time_us: int, happen: Callable[..., None], *arguments: Any) -> None:
        self.at(max(0, time_us - self.now_us), happen, *arguments)

    def chance(self, share: float) -> bool:
        return share > 0 and self._random.random() < share

    def below(self, bound: int) -> int:
        return int(self._random.random() * bound)

    def one_of(self, things: Sequence[T]) -> T:
        return things[self.below(len(things))]

    def delay_us(self) -> int:
        """Of a message between balancer and rater."""
        return MS if self.healed else self._delay_us(self.weather.delay_us)

    def store_delay_us(self) -> int:
        return MS if self.healed else self._delay_us(self.weather.store_delay_us)

    def _delay_us(self, typical_us: int) -> int:
        share = self._random.random()
        if not self.weather.heavy_tail:
            return int(typical_us * (0.5 + share))
        return min(int(typical_us / (1.0001 - share)), MAX_DELAY_US)

    def note(self, *what: object) -> None:
        self.trace.append((self.now_us, *what))

    # --- who takes part --------------------------------------------------------------------------

    def _start_balancer(self) -> None:
        self._lives += 1
        balancer = Balancer(self, self._lives)
        self.balancers.append(balancer)
        for rater in self.raters:
            if rater.alive:
                rater.join(balancer)

    def balancer_died(self, balancer: Balancer) -> None:
        self.balancers.remove(balancer)
        self.seen.update(balancer.watched.seen)
        self.clients.balancer_died(balancer)
        self.at((100 + self.below(500)) * MS, self._start_balancer)

    def start_rater(self) -> None:
        self._lives += 1
        late = self.chance(0.1)
        rater = self._parts.rater(self, self._lives, self.one_of(self.weather.credits), 0 if late else 1)
        if late:
            self.at(self.below(2_000) * MS, rater.take_tariff)
        self.raters.append(rater)
        for balancer in self.balancers:
            rater.join(balancer)

    def rater_ended(self) -> None:
        """Its supervisor starts another one."""
        self.at((100 + self.below(900)) * MS, self._replace_raters)

    def _replace_raters(self) -> None:
        self.raters = [rater for rater in self.raters if rater.alive]
        if len(self.raters) < self.weather.raters:
            self.start_rater()

    def _heal(self) -> None:
        self.note("nemesis", "heals")
        self.healed = True
        self._next_look_us = self.now_us
        self._nemesis.heal()
