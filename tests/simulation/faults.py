"""What goes wrong in a simulated world, until it is healed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.network import MS, Link
from tests.simulation.rater import Doom, Rater

if TYPE_CHECKING:
    from tests.simulation.balancer import Balancer
    from tests.simulation.world import World

DOOMS = list(Doom)


class Nemesis:
    """One fault after the other, at random."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._strike_later()

    def _strike_later(self) -> None:
        self._world.at(1 + self._world.below(2 * self._world.weather.fault_every_us), self._strike)

    def _strike(self) -> None:
        world = self._world
        if world.healed:
            return
        kind = world.one_of(world.weather.faults)
        world.note("nemesis", kind)
        world.seen[kind] += 1
        strike: Callable[[], None] = getattr(self, "_" + kind.replace(" ", "_"))
        strike()
        self._strike_later()

    # --- raters ----------------------------------------------------------------------------------

    def _rater(self) -> Rater | None:
        living = [rater for rater in self._world.raters if rater.alive]
        return self._world.one_of(living) if living else None

    def _kill(self) -> None:
        if rater := self._rater():
            rater.kill()

    def _vanish(self) -> None:
        if rater := self._rater():
            rater.vanish()

    def _doom(self) -> None:
        if rater := self._rater():
            rater.doom = self._world.one_of(DOOMS)

    def _stall(self) -> None:
        if rater := self._rater():
            rater.stalled_until_us = self._soon(4_000)

    def _drain(self) -> None:
        if rater := self._rater():
            rater.leaving = True

    def _start(self) -> None:
        if len(self._world.raters) < 12:
            self._world.start_rater()

    # --- the network -----------------------------------------------------------------------------

    def _link(self) -> Link | None:
        links = [link for balancer in self._world.balancers for link in balancer.links.values() if link.up]
        return self._world.one_of(links) if links else None

    def _cut(self) -> None:
        if link := self._link():
            link.cut()

    def _block(self) -> None:
        if link := self._link():
            ways = [(link.to_rater,), (link.to_balancer,), (link.to_rater, link.to_balancer)]
            link.block((100 + self._world.below(4_000)) * MS, *self._world.one_of(ways))

    # --- the store -------------------------------------------------------------------------------

    def _store_down(self) -> None:
        self._world.store.term += 1
        self._world.store.up_from_us = self._soon(2_000)

    def _store_stall(self) -> None:
        self._world.store.stalled_until_us = self._soon(2_000)

    def _store_full(self) -> None:
        self._world.store.writable_from_us = self._soon(1_000)

    def _fail_over(self, patience_ms: int = 200) -> None:
        store = self._world.store
        not_replicated = len(store.log) - store.replicated
        if not not_replicated and patience_ms and not self._world.healed:
            self._world.at(MS, self._fail_over, patience_ms - 1)  # until there is something to lose
            return
        survivors = store.replicated + self._world.below(not_replicated + 1)
        self._world.seen["changes lost"] += len(store.log) - survivors
        store.fail_over(survivors)
        store.up_from_us = self._soon(1_000)
        self._world.book.check_store()

    def _store_clock(self) -> None:
        self._world.store.clock_offset_us += (self._world.below(4_000) - 2_000) * MS

    # --- balancers -------------------------------------------------------------------------------

    def _balancer(self) -> Balancer | None:
        living = [balancer for balancer in self._world.balancers if balancer.alive]
        return self._world.one_of(living) if living else None

    def _balancer_kill(self) -> None:
        if balancer := self._balancer():
            balancer.kill()

    def _balancer_stall(self) -> None:
        if balancer := self._balancer():
            balancer.stalled_until_us = self._soon(3_000)

    def _balancer_drain(self) -> None:
        balancer = self._balancer()
        if balancer and not balancer.closing:
            balancer.close()

    def _soon(self, within_ms: int) -> int:
        return self._world.now_us + self._world.below(within_ms) * MS

    # --- the end of it ---------------------------------------------------------------------------

    def heal(self) -> None:
        """Nothing goes wrong from now on; what has broken is repaired."""
        world, store = self._world, self._world.store
        store.up_from_us = min(store.up_from_us, world.now_us)
        store.stalled_until_us = min(store.stalled_until_us, world.now_us)
        store.writable_from_us = min(store.writable_from_us, world.now_us)
        for rater in world.raters:
            rater.doom = None
            rater.stalled_until_us = min(rater.stalled_until_us, world.now_us)
        for balancer in world.balancers:
            balancer.stalled_until_us = min(balancer.stalled_until_us, world.now_us)
            for link in balancer.links.values():
                for way in (link.to_rater, link.to_balancer):
                    way.blocked_until_us = min(way.blocked_until_us, world.now_us)
