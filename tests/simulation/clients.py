"""Clients: each wants one debit, and those with a key ask until they know what became of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from common.errors import BelowFloor, ConnectionLost, KeyReused, Overloaded, Quarantined, ShuttingDown
from tests.simulation.network import MS
from tests.simulation.rater import POISON

if TYPE_CHECKING:
    from tests.simulation.balancer import Balancer
    from tests.simulation.world import World

REFUSED: Final = {BelowFloor.code, KeyReused.code}
NOT_TAKEN: Final = {Overloaded.code, ShuttingDown.code}
"""Nothing was done for this attempt."""
MAX_CENTS: Final = 40
"""Of an honest debit. Whoever uses a key twice wants more, and so something else."""
IMPATIENT: Final = 1
"""Stands for a code: no answer came in time."""


class Op:
    """A debit that somebody wants."""

    def __init__(self, number: int, key: str, account: int, cents: int, poison: bool) -> None:
        self.number = number
        self.key = key
        self.params = b"%d %d %d %b" % (account, cents, number, POISON if poison else b"")
        self.poison = poison
        self.calls = 0
        self.settled: int | None = None
        """The code that it ended with. Without a key that may be one that leaves the outcome unknown."""

    @property
    def is_refused(self) -> bool:
        return self.settled in REFUSED or self.poison or (not self.key and self.settled in NOT_TAKEN)


class Call:
    """One attempt of an op, at one balancer."""

    __slots__ = ("balancer", "op", "over")

    def __init__(self, op: Op, balancer: Balancer) -> None:
        self.op = op
        self.balancer = balancer
        self.over = False


class Clients:
    def __init__(self, world: World) -> None:
        self._world = world
        self.ops: list[Op] = []
        self.unsettled = 0
        self._calls: dict[str, list[Call]] = {}
        weather = world.weather
        patience_us = weather.settings.deadline_us + 500 * MS
        self._patience_us = patience_us if world.chance(0.7) else patience_us // 4
        at_us = 0
        while len(self.ops) < weather.ops:
            at_us = at_us + world.below(2 * weather.trouble_us * weather.burst // weather.ops)
            for _ in range(1 + world.below(2 * weather.burst - 1)):
                self._plan(at_us % weather.trouble_us)

    def _plan(self, at_us: int) -> None:
        world, number = self._world, len(self.ops)
        key = f"k{number}" if world.chance(world.weather.keyed) else ""
        cents = 1 + world.below(MAX_CENTS)
        if key and number and world.chance(0.03):
            key = self.ops[world.below(number)].key  # a client that uses a key twice
            cents = MAX_CENTS + number
        poison = world.chance(world.weather.poison)
        op = Op(number, key, world.below(world.weather.accounts), cents, poison)
        self.ops.append(op)
        self.unsettled += 1
        world.at(at_us, self._call, op)

    def _call(self, op: Op) -> None:
        world = self._world
        living = [balancer for balancer in world.balancers if balancer.alive and not balancer.closing]
        if not living:
            world.at(50 * MS, self._call, op)
            return
        balancer = living[(op.number + op.calls) % len(living)]
        op.calls += 1
        call = Call(op, balancer)
        self._calls.setdefault(balancer.id, []).append(call)
        world.note("client", "asks", balancer.id, op.number, op.params)
        balancer.submit(op.params, op.key, partial(self._answered, call))
        patience_us = world.weather.settings.deadline_us + 500 * MS if world.healed else self._patience_us
        world.at(patience_us, self._end, call, IMPATIENT)

    def _answered(self, call: Call, code: int, body: bytes, replayed: bool) -> None:
        assert call.balancer.alive, "a dead process answers"
        self._world.seen["replayed"] += replayed
        self._end(call, code)

    def balancer_died(self, balancer: Balancer) -> None:
        for call in self._calls.pop(balancer.id, ()):
            self._end(call, ConnectionLost.code)

    def _end(self, call: Call, code: int) -> None:
        if call.over:
            return  # the client has given up on this call
        call.over = True
        op, world = call.op, self._world
        known = code == 0 or code in REFUSED
        # Poison goes on killing in a healed world: its clients must stop, or nobody is served there.
        known = known or (op.poison and (world.healed or code == Quarantined.code))
        if op.key and not known:
            world.seen["asked again"] += 1
            world.at((20 + world.below(200)) * MS, self._call, op)
            return
        op.settled = code
        self.unsettled -= 1
