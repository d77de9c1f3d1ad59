"""The books of a simulated world: what clients were told, held against what the store has.

Checked after every change of the store and every answer, and once more at the end:

* an account's balance is its opening less its journal, and no request is in the journal twice;
* nothing was written later than the deadline that the command carried;
* what was acknowledged stands, whatever fails afterwards, and every later answer to that request
  is the same to the byte;
* "nothing was done" is true, then and for ever.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from balancer.actions import Request
from balancer.dispatch import MAX_ATTEMPTS
from common.errors import BelowFloor, DeadlineExceeded
from tests.simulation.store import OPENING, Line

if TYPE_CHECKING:
    from tests.simulation.balancer import Balancer
    from tests.simulation.world import World


class Book:
    def __init__(self, world: World) -> None:
        self._world = world
        self._lines: dict[str, Line] = {}
        """What the store has decided, by request."""
        self._read = 0
        self._term = 0
        self._balances: list[int] = []
        self._told: dict[tuple[str, bytes], tuple[int, bytes]] = {}
        """By request and parameters."""
        self._untouched: set[tuple[str, int]] = set()
        """Work of which a client was told that nothing was done."""
        self._kills: Counter[tuple[str, int]] = Counter()

    def check_store(self) -> None:
        store = self._world.store
        if self._term != store.term or not self._balances:
            self._term = store.term
            self._read = 0
            self._lines.clear()
            self._balances = [OPENING] * len(store.balances)
        for line in store.log[self._read :]:
            debit = line.debit
            assert debit.request not in self._lines, "a request was done twice"
            assert line.at_us <= debit.deadline_us, "written after its deadline"
            assert debit.work not in self._untouched, "told that nothing was done, and it was done"
            self._lines[debit.request] = line
            if line.outcome.code == 0:
                self._balances[debit.account] -= debit.cents
                assert line.outcome.body == b"%d" % self._balances[debit.account], "a result is wrong"
        self._read = len(store.log)
        assert self._balances == store.balances, "the journal does not add up to the balance"

    def answered(self, balancer_id: str, request: Request, code: int, body: bytes) -> None:
        """A balancer gives an answer to a client."""
        if code in (0, BelowFloor.code):
            name = request.key or f"{balancer_id}-{request.seq}"
            line = self._lines.get(name)
            assert line is not None, "acknowledged, and the store knows nothing of it"
            assert (line.outcome.code, line.outcome.body) == (code, body), "not what the store decided"
            told = self._told.setdefault((name, request.params), (code, body))
            assert told == (code, body), "a replay differs"
        elif code == DeadlineExceeded.code and b"nothing" in body and not self._world.weather.repeats:
            work = balancer_id, request.seq
            assert all(line.debit.work != work for line in self._lines.values()), "it was done after all"
            self._untouched.add(work)
            self._world.seen["nothing was done"] += 1

    def killed_by(self, balancer: Balancer, seq: int) -> None:
        """A request killed a rater."""
        self._kills[balancer.id, seq] += 1
        watched = balancer.watched
        unnoticed = watched.gone[seq] - watched.deaths[seq]
        assert self._kills[balancer.id, seq] <= MAX_ATTEMPTS + unnoticed, "it kills and kills"

    def check_at_end(self) -> None:
        self._term = -1
        self.check_store()
        for (name, _), told in self._told.items():
            outcome = self._lines[name].outcome if name in self._lines else None
            assert outcome is not None, "acknowledged, and lost since"
            assert (outcome.code, outcome.body) == told, "acknowledged, and changed since"
        lines = Counter(line.debit.number for line in self._lines.values() if line.outcome.code == 0)
        for op in self._world.clients.ops:
            done = lines[op.number]
            assert op.settled is not None, "a client never learned what became of its request"
            if op.settled == 0:
                assert done == 1, f"acknowledged, and done {done} times"
            elif op.is_refused:
                assert done == 0, "refused, and done"
            else:
                assert done <= 1, "done twice"
