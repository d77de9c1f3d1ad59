"""Dispatch under events that Hypothesis picks one by one, and shrinks when something fails."""

from __future__ import annotations

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from balancer.actions import Request, Send
from balancer.dispatch import SILENCE_US, Dispatch, DispatchSettings
from common.methods import BY_NAME
from tests.simulation.balancer import TICK_US
from tests.simulation.network import MS
from tests.simulation.watched import Watched

SETTINGS = DispatchSettings(deadline_us=5000 * MS, attempt_timeout_us=1500 * MS, max_queued=60)
RATERS = st.sampled_from([b"a", b"b", b"c"])


def request() -> Request:
    return Request("DebitBalance", b"{}", "", lambda code, body, replayed: None)


class NoSink:
    def answer(self, slot: int, code: int, body: bytes) -> None:
        pass


SINK = NoSink()


def rows(seqs: list[int]) -> list[list[object]]:
    return [[seq, 0, b"%d" % seq, False] for seq in seqs]


class DispatchMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.watched = Watched(Dispatch(SETTINGS), SETTINGS)
        self.now_us = 0

    @rule(count=st.integers(1, 30))
    def submit(self, count: int) -> None:
        for _ in range(count):
            self.watched.submit(request(), self.now_us)

    @rule(count=st.integers(0, 40))
    def submit_all(self, count: int) -> None:
        calls = [(slot, BY_NAME["DebitBalance"], b"x" * slot) for slot in range(count)]
        self.watched.submit_all(calls, SINK, self.now_us)

    @rule()
    def flush(self) -> None:
        self.watched.flush(self.now_us)

    @rule(rater=RATERS, credit=st.integers(-1, 20), epoch=st.integers(0, 2))
    def state(self, rater: bytes, credit: int, epoch: int) -> None:
        self.watched.state(rater, rater.decode(), credit, epoch, self.now_us)

    @rule(rater=RATERS, of=RATERS, share=st.floats(0, 1), twice=st.booleans())
    def reply(self, rater: bytes, of: bytes, share: float, twice: bool) -> None:
        flying = sorted(self.watched.flying.get(of, ()))
        some = flying[: round(len(flying) * share)]
        self.watched.replies(rater, rows(some * (2 if twice else 1)), self.now_us)

    @rule(rater=RATERS)
    def leave(self, rater: bytes) -> None:
        self.watched.leave(rater, self.now_us)

    @rule(rater=RATERS)
    def goodbye(self, rater: bytes) -> None:
        self.watched.goodbye(rater, self.now_us)

    @rule(rater=RATERS, unsent=st.lists(st.integers(1, 50), max_size=5), dead=st.booleans())
    def lose(self, rater: bytes, unsent: list[int], dead: bool) -> None:
        self.watched.lost(rater, unsent, self.now_us, dead=dead)

    @rule()
    def fall_silent(self) -> None:
        """Long enough for all raters, by ticks as the router makes them."""
        for _ in range(SILENCE_US // TICK_US):
            self.now_us += TICK_US
            self.watched.tick(self.now_us)

    @rule(passed_ms=st.sampled_from([1, 50, 50, 499, 700, 1500, 6000]))
    def pass_time(self, passed_ms: int) -> None:
        self.now_us += passed_ms * MS
        self.watched.tick(self.now_us)

    @invariant()
    def holds(self) -> None:
        self.watched.check_inside()

    def teardown(self) -> None:
        self.now_us += SETTINGS.deadline_us
        self.watched.tick(self.now_us)
        self.watched.check_empty()


TestDispatchMachine = DispatchMachine.TestCase
TestDispatchMachine.settings = hypothesis_settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_a_rater_killed_under_load_costs_no_request_an_error() -> None:
    watched = Watched(Dispatch(SETTINGS), SETTINGS)
    codes = []
    for rater in (b"a", b"b"):
        watched.state(rater, rater.decode(), 30, 1, 0)
    for now_us in range(0, 2 * SILENCE_US, TICK_US):
        dead = now_us >= 100 * MS
        sends = [action for action in watched.tick(now_us) if type(action) is Send]
        watched.state(b"b", "b", 30, 1, now_us)
        for _ in range(2):
            watched.submit(request(), now_us)
        for send in sends + watched.flush(now_us):
            if not (dead and send.rater_id == b"a"):
                seqs = [item.seq for item in send.items]
                codes += [answer.code for answer in watched.replies(send.rater_id, rows(seqs), now_us)]
    assert watched.seen["silence"]
    assert not watched.open
    assert set(codes) == {0}
