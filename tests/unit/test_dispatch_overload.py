"""What dispatch does with more requests than raters can do: a world in steps of 10 ms, with a fake clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec
import pytest

from balancer.actions import Answer, Request, Send
from balancer.admission import MIN_ROOM
from balancer.dispatch import Dispatch, DispatchSettings
from common.errors import DeadlineExceeded, Overloaded
from common.wire import HEARTBEAT_MS, WorkItem

MS = 1000
S = 1000 * MS
STEP_US = 10 * MS
TICK_US = 50 * MS
SETTINGS = DispatchSettings()
WAIT_US = SETTINGS.max_wait_us
SETTLED_US = SETTINGS.deadline_us + TICK_US
"""After raters began to take work, the balancer is patient for one deadline."""

PerSecond = Callable[[int], float]
"""How many a second at a time in µs."""


def always(per_s: float) -> PerSecond:
    return lambda _: per_s


class Rater:
    """Works in order of arrival, at the speed that it has at the time."""

    says = True
    """How long it worked."""

    def __init__(self, rater_id: bytes, speed: PerSecond, credit: int = 1024) -> None:
        self.id = rater_id
        self.speed = speed
        self.credit = credit
        self.backlog: deque[WorkItem] = deque()
        self._part = 0.0

    def work(self, now_us: int) -> list[WorkItem]:
        while self.backlog and self.backlog[0].deadline_us <= now_us:
            self.backlog.popleft()
        self._part += self.speed(now_us) * STEP_US / S
        done = []
        while self.backlog and self._part >= 1:
            self._part -= 1
            done.append(self.backlog.popleft())
        if not self.backlog:
            self._part = 0.0  # the time is lost
        return done


@pytest.fixture(params=[True, False], ids=["raters-say", "raters-do-not-say"], autouse=True)
def _says(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether raters say how long they worked: those of a gateway do not."""
    monkeypatch.setattr(Rater, "says", request.param)


class World:
    """Counts what became of the requests that arrived in the last `run`."""

    def __init__(self, *raters: Rater, settings: DispatchSettings = SETTINGS) -> None:
        self.dispatch = Dispatch(settings)
        self.raters = {rater.id: rater for rater in raters}
        self.now_us = 0
        self.arrived: dict[int, int] = {}
        self.forget()

    def forget(self) -> None:
        self.offered = 0
        self.refusals: list[Answer] = []
        self.late = 0
        self.ages_us: list[int] = []

    def run(self, load: PerSecond, for_us: int) -> None:
        self.forget()
        part, end_us = 0.0, self.now_us + for_us
        while self.now_us < end_us:
            self.now_us += STEP_US
            if self.now_us % (HEARTBEAT_MS * MS) == 0:
                self.beat()
            if self.now_us % TICK_US == 0:
                self.perform(self.dispatch.tick(self.now_us))
            part += load(self.now_us) * STEP_US / S
            while part >= 1:
                part -= 1
                self.submit()
            self.perform(self.dispatch.flush(self.now_us))
            for rater in self.raters.values():
                rows = [[item.seq, 0, b"1", False] for item in rater.work(self.now_us)]
                if rows:
                    busy_us = int(len(rows) * S / rater.speed(self.now_us)) if rater.says else 0
                    self.perform(self.dispatch.replies(rater.id, rows, self.now_us, busy_us))
            self.perform(self.dispatch.flush(self.now_us))

    def beat(self) -> None:
        for rater in self.raters.values():
            self.dispatch.state(rater.id, "", rater.credit, 1, self.now_us)

    def submit(self) -> None:
        self.offered += 1
        request = Request("DebitBalance", b"{}", "", lambda code, body, replayed: None)
        refusal = self.dispatch.submit(request, self.now_us)
        if refusal is not None:
            self.refusals.append(refusal)
        else:
            self.arrived[request.seq] = self.now_us

    def perform(self, actions: list[Send] | list[Answer] | list[object]) -> None:
        for action in actions:
            if isinstance(action, Send):
                self.raters[action.rater_id].backlog.extend(action.items)
            elif isinstance(action, Answer):
                age_us = self.now_us - self.arrived.pop(action.request.seq)
                self.late += action.code == DeadlineExceeded.code
                if action.code == 0:
                    self.ages_us.append(age_us)


@pytest.mark.parametrize("speed_per_s", [50, 1000, 4000])
@pytest.mark.parametrize("multiple", [1.2, 3, 10])
def test_under_overload_raters_stay_busy_the_rest_is_refused_and_the_wait_is_bounded(
    speed_per_s: float, multiple: float
) -> None:
    world = World(Rater(b"a", always(speed_per_s / 2)), Rater(b"b", always(speed_per_s / 2)))
    world.run(always(speed_per_s / 2), SETTLED_US)
    assert not world.refusals
    world.run(always(multiple * speed_per_s), 5 * S)  # the beginning, in which it is noticed
    assert world.late == 0 or multiple == 10
    world.run(always(multiple * speed_per_s), 10 * S)
    assert len(world.ages_us) >= 0.98 * speed_per_s * 10
    assert world.late == 0
    assert len(world.refusals) == pytest.approx((multiple - 1) * speed_per_s * 10, rel=0.1)
    assert max(world.ages_us) <= 1.2 * WAIT_US + MIN_ROOM * S / speed_per_s
    world.run(always(speed_per_s / 2), 2 * S)
    world.run(always(speed_per_s / 2), 10 * S)
    assert not world.refusals
    assert max(world.ages_us) <= WAIT_US / 4


@pytest.mark.parametrize("speed_per_s", [100, 3000, 30_000, 100_000])
@pytest.mark.parametrize("multiple", [1, 1.5, 3, 5])
def test_near_saturation_nothing_is_refused_needlessly_and_beyond_it_no_more_than_there_is_too_much(
    speed_per_s: float, multiple: float
) -> None:
    seconds = {100: 5, 3000: 5, 30_000: 1, 100_000: 0.4}[speed_per_s]  # a million requests take their time
    world = World(Rater(b"a", always(speed_per_s / 2), 50_000), Rater(b"b", always(speed_per_s / 2), 50_000))
    world.run(always(speed_per_s / 100), SETTLED_US)
    for_us = round(seconds * S)
    world.run(always(multiple * speed_per_s), for_us)
    world.run(always(multiple * speed_per_s), for_us)
    assert len(world.ages_us) >= 0.98 * speed_per_s * seconds
    assert len(world.refusals) == pytest.approx((1 - 1 / multiple) * world.offered, abs=0.03 * world.offered)
    assert world.late == 0


def clumps(per_s: float, period_us: int) -> PerSecond:
    """What comes in a period comes at once, at its end."""
    return lambda now_us: 0 if now_us % period_us else per_s * period_us / STEP_US


@pytest.mark.parametrize(
    ("load", "period_ms", "share"),
    [(0.6, 600, 1.0), (0.6, 800, 1.0), (1.0, 300, 1.0), (1.0, 600, 0.95), (1.5, 600, 0.9), (3.0, 600, 0.9)],
)
def test_a_room_that_was_too_small_for_raters_to_be_busy_is_not_taken_for_what_they_can_do(
    load: float, period_ms: int, share: float
) -> None:
    """Many clients beat in time: after each clump raters work for a while, then idle."""
    world = World(Rater(b"a", always(1500)), Rater(b"b", always(1500)))
    world.run(always(9000), 10 * S)
    world.run(clumps(load * 3000, period_ms * MS), 9600 * MS)
    world.run(clumps(load * 3000, period_ms * MS), 9600 * MS)
    assert len(world.ages_us) >= share * min(load, 1) * 3000 * 9.6 * 0.95
    assert world.late == 0
    if share == 1.0:
        assert not world.refusals


@pytest.mark.parametrize("period_ms", [400, 1000, 2000])
@pytest.mark.parametrize("multiple", [0.8, 1, 1.5, 3])
def test_raters_whose_speed_swings_by_a_third_are_kept_busy(period_ms: int, multiple: float) -> None:
    def speed(now_us: int) -> float:
        return 2000 if now_us // (period_ms * MS // 2) % 2 else 1000

    world = World(Rater(b"a", speed), Rater(b"b", speed))
    world.run(always(300), SETTLED_US)
    world.run(always(multiple * 3000), 10 * S)
    world.run(always(multiple * 3000), 10 * S)
    assert len(world.ages_us) >= 0.97 * min(multiple, 1) * 3000 * 10
    assert len(world.refusals) <= (max(multiple - 1, 0) + 0.03) * 3000 * 10
    assert world.late == 0
    assert max(world.ages_us) <= 2 * WAIT_US


def test_what_raters_idle_with_grows_until_they_are_busy() -> None:
    """They were slow, and are fast again; clients come in clumps: the small room is full at times only."""
    world = World(Rater(b"a", lambda now_us: 200 if now_us < 15 * S else 5000))
    world.run(always(2000), 15 * S)
    world.run(clumps(4000, 200 * MS), 3 * S)
    world.run(clumps(4000, 200 * MS), 5 * S)
    assert len(world.ages_us) >= 0.95 * 4000 * 5


def test_the_refusal_says_what_is_too_much_and_when_to_come_again() -> None:
    world = World(Rater(b"a", always(100)))
    world.run(always(300), 15 * S)
    refusal = world.refusals[-1]
    assert refusal.code == Overloaded.code
    assert msgspec.json.decode(refusal.body) == {
        "code": Overloaded.code,
        "name": "overloaded",
        "message": "as many requests are here as raters answer within 500 ms",
        "data": {
            "detail": "as many requests are here as raters answer within 500 ms",
            "retry_after_ms": 500,
        },
    }


def test_when_raters_become_slow_the_wait_is_bounded_by_what_they_do_now() -> None:
    world = World(Rater(b"a", lambda now_us: 5000 if now_us < 10 * S else 500))
    world.run(always(4000), 10 * S)
    assert not world.refusals
    world.run(always(4000), 7 * S)
    world.run(always(4000), 10 * S)
    assert len(world.ages_us) >= 0.98 * 500 * 10
    assert world.late == 0
    assert max(world.ages_us) <= 1.3 * WAIT_US


def test_a_pause_of_all_raters_costs_no_refusal() -> None:
    """A store that hangs for less than `max_wait`, say; what arrived meanwhile is then worked off."""
    world = World(Rater(b"a", lambda now_us: 0 if 10 * S < now_us <= 10 * S + 0.8 * WAIT_US else 5000))
    world.run(always(3000), 20 * S)
    assert not world.refusals
    assert max(world.ages_us) >= 0.8 * WAIT_US


def test_one_slow_rater_beside_one_that_is_fast_enough_is_no_overload() -> None:
    world = World(Rater(b"a", always(5)), Rater(b"b", always(5000)))
    world.run(always(1000), 20 * S)
    assert not world.refusals


def test_a_burst_on_an_idle_cluster_is_taken() -> None:
    world = World(Rater(b"a", always(2000)))
    world.run(always(10), SETTLED_US)
    world.run(lambda now_us: 400_000 if now_us == SETTLED_US + STEP_US else 0, 3 * S)
    assert world.offered == len(world.ages_us) == 4000


def test_while_no_rater_takes_work_requests_wait_and_when_one_does_they_are_done() -> None:
    rater = Rater(b"a", always(3000))
    world = World(rater)
    world.run(always(2000), SETTLED_US)
    rater.credit = 0
    world.beat()
    world.run(always(2000), 2 * S)
    assert not world.refusals
    rater.credit = 1024
    world.run(always(2000), 5 * S)
    assert not world.refusals
    assert world.late == 0
    assert max(world.ages_us) >= 2 * S


def test_after_an_outage_under_overload_what_is_taken_makes_its_deadline() -> None:
    rater = Rater(b"a", always(1000), credit=0)
    world = World(rater)
    world.run(always(3000), 4 * S)
    rater.credit = 1024
    world.run(always(3000), 8 * S)  # what came before is answered or expires
    assert world.refusals
    world.run(always(3000), 5 * S)
    assert world.late == 0
    assert len(world.ages_us) >= 0.98 * 1000 * 5


def test_max_wait_is_at_most_half_of_the_deadline() -> None:
    settings = DispatchSettings(deadline_us=400 * MS, max_wait_us=2 * S)
    world = World(Rater(b"a", always(1000)), settings=settings)
    world.run(always(3000), 3 * S)
    world.run(always(3000), 3 * S)
    assert world.late == 0
    assert max(world.ages_us) <= 300 * MS


def test_when_all_clients_go_the_bound_goes_too() -> None:
    world = World(Rater(b"a", always(1000)))
    world.run(always(3000), 10 * S)
    assert world.dispatch.overloaded
    world.run(always(0), 2 * S)
    assert not world.dispatch.overloaded
    world.run(lambda now_us: 250_000 if now_us == 12 * S + STEP_US else 0, 4 * S)
    assert world.offered == len(world.ages_us) == 2500
