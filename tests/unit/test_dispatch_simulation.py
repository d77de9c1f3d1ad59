"""Dispatch under everything that can go wrong, against a model that knows only events and actions.

Two drivers: Hypothesis picks the events one by one (and shrinks what fails), and a simulator plays
whole lives of raters on a bad network with a fake clock. A simulation is a function of its seed:
`Simulation(seed).run()` replays a failure exactly.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from balancer.actions import Action, Answer, Request, Send, SendDrained
from balancer.dispatch import MAX_ATTEMPTS, MAX_DEATHS, SILENCE_US, Dispatch, DispatchSettings
from common.errors import DeadlineExceeded, Overloaded, Quarantined
from common.wire import HEARTBEAT_MS, WorkItem

MS = 1000
TICK_US = 50 * MS
SETTINGS = DispatchSettings(deadline_us=5000 * MS, attempt_timeout_us=1500 * MS, max_queued=60)
OUR_ERRORS = {DeadlineExceeded.code, Overloaded.code, Quarantined.code}


class Model:
    """Wraps a Dispatch, and asserts after every step what must hold whatever happens."""

    def __init__(self) -> None:
        self.dispatch = Dispatch(SETTINGS)
        self.requests: list[Request] = []
        self.open: dict[int, Request] = {}
        self.answers: dict[int, Answer] = {}
        self.in_flight: dict[bytes, set[int]] = {}
        self.limits: dict[bytes, int] = {}
        self.leaving: set[bytes] = set()
        self.deadlines: dict[int, int] = {}
        self.sent: Counter[int] = Counter()
        self.gone: Counter[int] = Counter()
        """Raters that were forgotten while they had the request."""
        self.deaths: Counter[int] = Counter()
        """Those of them that were lost by the router."""
        self.trace: list[object] = []

    def submit(self, now_us: int) -> None:
        request = Request("DebitBalance", b"%d" % len(self.requests), "", lambda code, body, replayed: None)
        self.requests.append(request)
        self.open[int(request.params)] = request
        refusal = self.dispatch.submit(request, now_us)
        if refusal is None:
            assert request.seq not in self.deadlines, "a sequence number was used twice"
            self.deadlines[request.seq] = now_us + SETTINGS.deadline_us
        else:
            self.perform([refusal], now_us)

    def state(self, rater: bytes, credit: int, epoch: int, now_us: int) -> None:
        self.dispatch.state(rater, rater.decode(), credit, epoch, now_us)
        self.limits[rater] = max(credit, 0) if epoch > 0 else 0

    def replies(self, rater: bytes, seqs: list[int], now_us: int) -> None:
        known = rater in self.dispatch.rater_ids()
        had = set(self.in_flight.get(rater, ()))
        answers = self.dispatch.replies(rater, [[seq, 0, b"%d" % seq, False] for seq in seqs], now_us)
        for answer in answers:
            assert known
            assert answer.request.seq in had, "a reply counted that the rater did not owe"
        self.in_flight.get(rater, set()).difference_update(seqs)
        self.perform(answers, now_us)

    def leave(self, rater: bytes, now_us: int) -> None:
        self.perform(self.dispatch.leave(rater, now_us), now_us)
        self.leaving.add(rater)

    def goodbye(self, rater: bytes, now_us: int) -> None:
        self.gone.update(self.in_flight.get(rater, ()))
        self.perform(self.dispatch.goodbye(rater), now_us)

    def lost(self, rater: bytes, now_us: int, unsent: list[int] | None = None, *, dead: bool = True) -> None:
        self.gone.update(self.in_flight.get(rater, ()))
        if dead and rater not in self.dispatch.silent_rater_ids() | self.leaving:
            self.deaths.update(self.in_flight.get(rater, set()).difference(unsent or ()))
        self.perform(self.dispatch.lost(rater, set(unsent or ()), dead=dead), now_us)

    def tick(self, now_us: int) -> list[Send]:
        actions = self.dispatch.tick(now_us)
        for seq in [seq for seq, deadline in self.deadlines.items() if deadline <= now_us]:
            del self.deadlines[seq]
            for seqs in self.in_flight.values():
                seqs.discard(seq)
        return self.perform(actions, now_us)

    def flush(self, now_us: int) -> list[Send]:
        return self.perform(self.dispatch.flush(now_us), now_us)

    def perform(self, actions: list[Any] | list[Action], now_us: int) -> list[Send]:
        known = self.dispatch.rater_ids()
        for rater in [rater for rater in self.in_flight if rater not in known]:
            del self.in_flight[rater]
        self.leaving.intersection_update(known)
        sends = []
        for action in actions:
            if isinstance(action, Answer):
                self._check_answer(action, now_us)
            elif isinstance(action, Send):
                self._check_send(action, now_us)
                sends.append(action)
            else:
                assert isinstance(action, SendDrained)
        return sends

    def _check_answer(self, answer: Answer, now_us: int) -> None:
        place = int(answer.request.params)
        self.trace.append((now_us, "answer", place, answer.code))
        assert place not in self.answers, "answered twice"
        self.answers[place] = answer
        del self.open[place]
        assert answer.code == 0 or answer.code in OUR_ERRORS
        if answer.code == Quarantined.code:
            assert self.deaths[answer.request.seq] >= MAX_DEATHS, "given up for raters that did not die"
        if answer.code == 0:
            assert int(answer.body) == answer.request.seq

    def _check_send(self, send: Send, now_us: int) -> None:
        self.trace.append((now_us, "send", send.rater_id, tuple(item.seq for item in send.items)))
        assert send.items
        assert send.rater_id not in self.leaving, "work for a leaving rater"
        assert send.rater_id not in self.dispatch.silent_rater_ids(), "work for a silent rater"
        flying = self.in_flight.setdefault(send.rater_id, set())
        for item in send.items:
            assert item.seq not in flying, "the same rater got it twice"
            assert item.deadline_us == self.deadlines[item.seq], "sent past its deadline"
            assert int(self.requests[int(item.params)].seq) == item.seq
            flying.add(item.seq)
            self.sent[item.seq] += 1
            assert self.sent[item.seq] <= MAX_ATTEMPTS + self.gone[item.seq], "too many attempts"
        assert len(flying) <= self.limits[send.rater_id], "more in flight than the credit"

    def check(self) -> None:
        assert self.dispatch.unanswered == len(self.open), "a request vanished"
        flying = set().union(*self.in_flight.values())
        flying.update(request.seq for request in self.open.values())
        assert len(flying) <= SETTINGS.max_queued

    def check_deadlines(self, now_us: int) -> None:
        assert all(request.deadline_us > now_us for request in self.open.values()), "open past its deadline"


# --- Hypothesis picks the events ------------------------------------------------------------------

RATERS = st.sampled_from([b"a", b"b", b"c"])


class DispatchMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.now_us = 0

    @rule(count=st.integers(1, 30))
    def submit(self, count: int) -> None:
        for _ in range(count):
            self.model.submit(self.now_us)

    @rule()
    def flush(self) -> None:
        self.model.flush(self.now_us)

    @rule(rater=RATERS, credit=st.integers(-1, 20), epoch=st.integers(0, 2))
    def state(self, rater: bytes, credit: int, epoch: int) -> None:
        self.model.state(rater, credit, epoch, self.now_us)

    @rule(rater=RATERS, of=RATERS, share=st.floats(0, 1), twice=st.booleans())
    def reply(self, rater: bytes, of: bytes, share: float, twice: bool) -> None:
        flying = sorted(self.model.in_flight.get(of, ()))
        some = flying[: round(len(flying) * share)]
        self.model.replies(rater, some * (2 if twice else 1), self.now_us)

    @rule(rater=RATERS)
    def leave(self, rater: bytes) -> None:
        self.model.leave(rater, self.now_us)

    @rule(rater=RATERS)
    def goodbye(self, rater: bytes) -> None:
        self.model.goodbye(rater, self.now_us)

    @rule(rater=RATERS, unsent=st.lists(st.integers(1, 50), max_size=5), dead=st.booleans())
    def lose(self, rater: bytes, unsent: list[int], dead: bool) -> None:
        self.model.lost(rater, self.now_us, unsent, dead=dead)

    @rule()
    def fall_silent(self) -> None:
        """Long enough for all raters, by ticks as the router makes them."""
        for _ in range(SILENCE_US // TICK_US):
            self.now_us += TICK_US
            self.model.tick(self.now_us)

    @rule(passed_ms=st.sampled_from([1, 50, 50, 499, 700, 1500, 6000]))
    def pass_time(self, passed_ms: int) -> None:
        self.now_us += passed_ms * MS
        self.model.tick(self.now_us)
        self.model.check_deadlines(self.now_us)

    @invariant()
    def holds(self) -> None:
        self.model.check()

    def teardown(self) -> None:
        self.now_us += SETTINGS.deadline_us
        self.model.tick(self.now_us)
        assert len(self.model.answers) == len(self.model.requests)


TestDispatchMachine = DispatchMachine.TestCase
TestDispatchMachine.settings = hypothesis_settings(max_examples=100, stateful_step_count=40, deadline=None)


# --- the simulator --------------------------------------------------------------------------------


class SimulatedRater:
    def __init__(self, rater_id: bytes, credit: int) -> None:
        self.id = rater_id
        self.credit = credit
        self.epoch = 0
        self.alive = True
        self.leaving = False
        self.stalled_until_us = 0
        self.backlog: list[WorkItem] = []


class Simulation:
    """Some seconds of trouble, then a healed world until every request is over."""

    TROUBLE_US = 6_000 * MS

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.model = Model()
        self.now_us = 0
        self.healed = False
        self.raters: dict[bytes, SimulatedRater] = {}
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.order = 0
        self.loss = self.random.choice([0.0, 0.0, 0.05, 0.3])
        self.repeats = self.random.choice([0.0, 0.1])
        self.slowness_us = self.random.choice([2, 100, 1200]) * MS
        self.load = self.random.choice([1, 5, 40])

    def run(self) -> Model:
        for _ in range(self.random.randint(0, 3)):
            self.start_rater()
        self.at(0, self.tick)
        self.at(0, self.clients)
        self.at(0, self.trouble)
        self.at(self.TROUBLE_US, self.heal)
        end_us = self.TROUBLE_US + SETTINGS.deadline_us + 2 * TICK_US
        while self.events and self.events[0][0] <= end_us:
            self.now_us, _, event = heapq.heappop(self.events)
            event()
            self.model.check()
        assert len(self.model.answers) == len(self.model.requests), "unanswered after healing"
        return self.model

    def at(self, delay_us: int, event: Callable[[], None]) -> None:
        self.order += 1
        heapq.heappush(self.events, (self.now_us + delay_us, self.order, event))

    def message(self, deliver: Callable[[], None]) -> None:
        """A message on its way: late, out of order, repeated or lost; not so in a healed world."""
        if self.healed:
            self.at(MS, deliver)
            return
        for _ in range(2 if self.random.random() < self.repeats else 1):
            if self.random.random() >= self.loss:
                self.at(self.random.randint(1, self.slowness_us), deliver)

    # the balancer

    def tick(self) -> None:
        self.send(self.model.tick(self.now_us))
        self.model.check_deadlines(self.now_us)
        self.flush()
        stall = not self.healed and self.random.random() < 0.01
        self.at(self.random.randint(500, 3000) * MS if stall else TICK_US, self.tick)

    def flush(self) -> None:
        self.send(self.model.flush(self.now_us))

    def send(self, sends: list[Send]) -> None:
        for send in sends:
            rater = self.raters[send.rater_id]
            if not rater.alive and self.random.random() < 0.5:
                self.model.lost(rater.id, self.now_us, [item.seq for item in send.items])
            else:
                self.message(lambda rater=rater, send=send: rater.backlog.extend(send.items))  # type: ignore[misc]

    def clients(self) -> None:
        for _ in range(self.random.randint(0, self.load)):
            self.model.submit(self.now_us)
        self.flush()
        if not self.healed:
            self.at(self.random.randint(1, 200) * MS, self.clients)

    # the raters

    def start_rater(self) -> None:
        rater = SimulatedRater(b"r%d" % len(self.raters), self.random.choice([1, 5, 30]))
        self.raters[rater.id] = rater
        self.beat(rater)
        self.work(rater)

    def beat(self, rater: SimulatedRater) -> None:
        if not rater.alive:
            return
        if self.now_us >= rater.stalled_until_us:
            rater.epoch = rater.epoch or self.random.randint(0, 1) or int(self.healed)
            epoch = rater.epoch
            self.message(lambda: self.model.state(rater.id, rater.credit, epoch, self.now_us))
        self.at(HEARTBEAT_MS * MS, lambda: self.beat(rater))

    def work(self, rater: SimulatedRater) -> None:
        if not rater.alive:
            return
        if rater.backlog and self.now_us >= rater.stalled_until_us:
            seqs = [item.seq for item in rater.backlog]
            self.random.shuffle(seqs)
            rater.backlog.clear()
            self.message(lambda: (self.model.replies(rater.id, seqs, self.now_us), self.flush())[0])
        if rater.leaving and not rater.backlog and self.random.random() < 0.1:
            rater.alive = False
            self.message(lambda: self.model.goodbye(rater.id, self.now_us))
        self.at(20 * MS, lambda: self.work(rater))

    def trouble(self) -> None:
        if self.healed:
            return
        kind = self.random.choice(["start", "die", "stall", "leave", "nothing", "nothing"])
        living = [rater for rater in self.raters.values() if rater.alive]
        if kind == "start":
            self.start_rater()
        elif living and kind != "nothing":
            rater = self.random.choice(living)
            if kind == "die":
                rater.alive = False
                if self.random.random() < 0.5:  # else its host vanished: no connection is closed
                    self.at(MS, lambda: self.model.lost(rater.id, self.now_us))
            elif kind == "stall":
                rater.stalled_until_us = self.now_us + self.random.randint(100, 4000) * MS
            else:
                rater.leaving = True
                self.message(lambda: self.model.leave(rater.id, self.now_us))
        self.at(self.random.randint(50, 1500) * MS, self.trouble)

    def heal(self) -> None:
        self.healed = True
        self.start_rater()


@pytest.mark.parametrize("first_seed", range(0, 300, 50))
def test_in_every_simulated_disaster_each_request_is_answered_exactly_once(first_seed: int) -> None:
    codes: set[int] = set()
    for seed in range(first_seed, first_seed + 50):
        try:
            model = Simulation(seed).run()
        except AssertionError as error:
            pytest.fail(f"Simulation({seed}).run(): {error}")
        codes |= {answer.code for answer in model.answers.values()}
    assert {0, DeadlineExceeded.code, Overloaded.code} <= codes, "the disasters were too mild"


def test_a_simulation_is_a_function_of_its_seed() -> None:
    for seed in range(20):
        assert Simulation(seed).run().trace == Simulation(seed).run().trace


def test_a_rater_killed_under_load_costs_no_request_an_error() -> None:
    model = Model()
    for rater in (b"a", b"b"):
        model.state(rater, 30, 1, 0)
    for now_us in range(0, 3000 * MS, TICK_US):
        dead = now_us >= 100 * MS
        model.tick(now_us)
        model.state(b"b", 30, 1, now_us)
        for _ in range(2):
            model.submit(now_us)
        for send in model.flush(now_us):
            if not (dead and send.rater_id == b"a"):
                model.replies(send.rater_id, [item.seq for item in send.items], now_us)
        model.replies(b"b", sorted(model.in_flight.get(b"b", ())), now_us)
    assert now_us > 100 * MS + SILENCE_US
    assert {answer.code for answer in model.answers.values()} == {0}
    assert len(model.answers) == len(model.requests)
