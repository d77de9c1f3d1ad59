"""Two batches with the store at a time: in order, each change once, whatever becomes of the connection."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from common.errors import DeadlineExceeded, StoreUnavailable
from common.storage.durability import Durability, Level
from common.storage.embedded_store import EmbeddedStore
from common.storage.store import StoreConnection
from rater import worker as worker_module
from rater.link import Link
from rater.rating.snapshot import Snapshot
from rater.store.memory import StoreMemory
from rater.tariffs.watch import TariffWatch
from rater.work.jobs import Job, Outcome, Undecided
from rater.work.service import MAX_CLOCK_STEP_US, Flight, Service
from rater.worker import MIN_AHEAD, Worker
from tests.integration.conftest import Accounts
from tests.integration.test_service import (
    CountingStore,
    accounts_and_service,
    cost,
    job,
    results,
)


@pytest.fixture
def counting(store: StoreConnection, store_server: EmbeddedStore) -> Iterator[CountingStore]:
    with CountingStore(store_server.url, timeout_ms=20_000) as connection:
        yield connection


@pytest.fixture
def service(counting: CountingStore, accounts: Accounts) -> Service:
    service = accounts_and_service(counting, accounts)
    service.process([job("DebitBalance", "warm", Amount=0)])
    return service


def finish(service: Service, *flights: Flight) -> list[list[Outcome | Undecided]]:
    """As the work loop does it: always the one that paused first."""
    under_way = list(flights)
    while under_way:
        flight = under_way.pop(0)
        if not flight.landed:
            service.go_on(flight)
        if not flight.landed:
            under_way.append(flight)
    return [flight.outcomes for flight in flights]


def debits(name: str, count: int = 3) -> list[Job]:
    return [job("DebitBalance", f"{name}{n}", Amount=1) for n in range(count)]


def test_the_later_flight_is_sent_at_once_and_sees_what_the_earlier_one_changed(
    service: Service, counting: CountingStore
) -> None:
    counting.trips.clear()
    flights = [service.begin(debits("a")), service.begin([*debits("b"), cost()])]
    assert len(counting.trips) == counting.unread == 2
    assert not flights[0].landed
    first, second = finish(service, *flights)
    assert (results(first), results(second)[:3]) == ([99, 98, 97], [96, 95, 94])
    assert len(counting.trips) == 2


def test_a_request_that_is_in_both_flights_is_done_once(service: Service) -> None:
    first, second = finish(service, service.begin(debits("a")), service.begin(debits("a")))
    assert results(first) == results(second) == [99, 98, 97]
    assert [outcome.replayed for outcome in second if isinstance(outcome, Outcome)] == [True] * 3


def test_flights_with_several_rounds_take_turns(service: Service, accounts: Accounts) -> None:
    """Each reads the plan first: the second round trip of the one is behind the first of the other."""
    first = service.begin([job("AddRecievedCallSeconds", "a", Amount=4), *debits("x")])
    second = service.begin([job("AddRecievedCallSeconds", "b", Amount=4), *debits("y")])
    service.go_on(first)
    assert not first.landed
    assert [results(outcomes)[0] for outcomes in finish(service, second, first)] == [8, 4]
    assert len(accounts.journal("anna")) == 2 + 2 * 4


def test_a_lost_connection_leaves_both_flights_unknown_and_again_each_is_done_once(
    service: Service, counting: CountingStore, accounts: Accounts
) -> None:
    counting.lose_replies = 1
    batches = [debits("a"), debits("b")]
    outcomes = finish(service, *map(service.begin, batches))
    assert outcomes == [[Undecided.UNKNOWN] * 3] * 2
    again = finish(service, *map(service.begin, batches))
    assert [results(one) for one in again] == [[99, 98, 97], [96, 95, 94]]
    assert len(accounts.journal("anna")) == 2 + 6


def test_a_flight_on_a_connection_that_was_made_anew_is_not_taken_for_answered(
    service: Service, counting: CountingStore, accounts: Accounts
) -> None:
    lost = service.begin(debits("a"))
    counting.close()
    new = service.begin(debits("b"))
    first, second = finish(service, lost, new)
    assert first == [Undecided.UNKNOWN] * 3
    [again] = finish(service, service.begin(debits("a")))
    assert len({*results(second), *results(again)}) == 6
    assert len(accounts.journal("anna")) == 2 + 6


def test_scripts_that_the_store_forgot_are_loaded_when_the_other_flight_has_its_replies(
    service: Service, counting: CountingStore, accounts: Accounts
) -> None:
    assert counting.execute([("SCRIPT", "FLUSH")]) == [b"OK"]
    first, second = finish(service, service.begin(debits("a")), service.begin(debits("b")))
    assert sorted([*results(first), *results(second)]) == [94, 95, 96, 97, 98, 99]
    assert len(accounts.journal("anna")) == 2 + 6


@pytest.mark.parametrize("is_large", [False, True])
def test_a_step_of_the_store_s_clock_is_the_same_for_both_flights(
    service: Service, accounts: Accounts, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    """The one that lands first measures it anew, and the other must not take that for its own measure."""
    step_us = MAX_CLOCK_STEP_US + 10_000_000 if is_large else MAX_CLOCK_STEP_US - 10_000_000
    real = service._store.clock_offset_us
    monkeypatch.setattr(service._store, "clock_offset_us", lambda mono_us: real(mono_us) - step_us)
    service.measure_store_clock()  # as it was before the step
    monkeypatch.undo()
    batches = [
        [job("DebitBalance", f"{name}{n}", timeout_us=step_us // 2, Amount=1) for n in range(3)]
        for name in "ab"
    ]
    outcomes = finish(service, *map(service.begin, batches))
    if is_large:
        assert [results(cast(Any, one)) for one in outcomes] == [["deadline_exceeded"] * 3] * 2
        return
    assert outcomes == [[Undecided.NOT_BEGUN] * 3] * 2
    assert [results(one) for one in finish(service, *map(service.begin, batches))] == [
        [99, 98, 97],
        [96, 95, 94],
    ]


def test_replies_are_received_in_the_order_of_the_batches(store: StoreConnection) -> None:
    first, second = store.send([("SET", "k", 1)]), store.send([("GET", "k"), ("PING",)])
    assert store.unread == 2
    with pytest.raises(RuntimeError, match="another batch"):
        store.receive(second)
    assert store.receive(first) == [b"OK"]
    assert store.receive(second) == [b"1", b"PONG"]
    with pytest.raises(StoreUnavailable, match="broke"):
        store.receive(second)
    assert store.unread == 0
    assert not store.has_input


def test_input_that_came_with_the_batch_before_is_known_of(store: StoreConnection) -> None:
    first, second = store.send([("PING",)]), store.send([("ECHO", "x" * 10)])
    time.sleep(0.2)  # both replies are there by then, or come by two reads: then there is less to see
    assert store.receive(first) == [b"PONG"]
    if not store.has_input:
        os.set_blocking(store.fileno(), True)
    assert store.receive(second) == [b"x" * 10]
    assert not store.has_input


# --- the work loop --------------------------------------------------------------------------------


class Origin:
    life = "origin"

    def __init__(self) -> None:
        self.outcomes: dict[int, Outcome] = {}

    def reply(self, seq: int, outcome: Outcome) -> None:
        assert seq not in self.outcomes
        self.outcomes[seq] = outcome


class HandedLink:
    """A link to no balancer: the test hands it jobs."""

    drained = True
    joined = True
    is_new = False

    def __init__(self) -> None:
        self.socket, self._write = os.pipe()
        self._jobs: list[Job] = []
        self.busy_us: list[int] = []
        self.took_work: list[bool] = []
        """What was said with each heartbeat."""

    def hand(self, jobs: list[Job]) -> None:
        self._jobs += jobs
        os.write(self._write, b"!")

    def receive(self) -> list[Job]:
        os.read(self.socket, 4096)
        jobs, self._jobs = self._jobs, []
        return jobs

    def flush(self, busy_us: int = 0) -> None:
        self.busy_us.append(busy_us)

    def tell(self, about: bytes) -> None: ...

    def beat(self, name: str, tariff_epoch: int, *, takes_work: bool = True) -> None:
        self.took_work.append(takes_work)

    def close(self) -> None:
        os.close(self.socket)
        os.close(self._write)


class NoNews:
    is_settled = True
    memory = StoreMemory()

    def take(self) -> None:
        return None


class Loop:
    """A work loop that goes turn by turn."""

    def __init__(self, service: Service) -> None:
        self.link, self.origin = HandedLink(), Origin()
        self.worker = Worker("w", service, cast(TariffWatch, NoNews()), [cast(Link, self.link)], None)
        self._seq = 0

    def hand(self, count: int, method: str = "DebitBalance", within_us: int | None = None) -> None:
        jobs = []
        for _ in range(count):
            self._seq += 1
            one = job(method, Amount=1) if method == "DebitBalance" else cost()
            one.origin, one.seq = self.origin, self._seq
            if within_us is not None:
                one.deadline_us = time.monotonic_ns() // 1000 + within_us
            jobs.append(one)
        self.link.hand(jobs)

    def turn(self) -> int:
        self.worker._turn()
        return len(self.worker._flights)

    def finish(self) -> None:
        while self.turn() or self.worker._backlog:
            pass


@pytest.fixture
def loop(service: Service) -> Iterator[Loop]:
    loop = Loop(service)
    loop.turn()  # the first heartbeat
    yield loop
    loop.link.close()


@pytest.mark.source
def test_a_small_batch_is_answered_in_the_turn_in_which_it_came(loop: Loop) -> None:
    loop.hand(MIN_AHEAD - 1)
    assert loop.turn() == 0
    assert len(loop.origin.outcomes) == MIN_AHEAD - 1
    loop.hand(10 * MIN_AHEAD, "GetCost")
    assert loop.turn() == 0
    assert len(loop.origin.outcomes) == 11 * MIN_AHEAD - 1


@pytest.mark.source
def test_many_changes_go_to_the_store_in_two_flights_of_which_the_first_lands_first(
    loop: Loop, counting: CountingStore, accounts: Accounts
) -> None:
    counting.trips.clear()
    loop.hand(4 * MIN_AHEAD)
    assert loop.turn() == 1
    assert len(counting.trips) == 2, "the second was sent before the replies to the first were read"
    assert sorted(loop.origin.outcomes) == list(range(1, 2 * MIN_AHEAD + 1))
    loop.finish()
    assert sorted(loop.origin.outcomes) == list(range(1, 4 * MIN_AHEAD + 1))
    assert len(accounts.journal("anna")) == 2 + 4 * MIN_AHEAD


@pytest.mark.source
def test_changes_that_wait_for_copies_go_out_in_one_flight(
    service: Service, counting: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent behind a wait is held up by it."""
    monkeypatch.setattr(service, "_durability", Durability(Level.REPLICATED, 1, 1))
    loop = Loop(service)
    loop.turn()
    counting.trips.clear()
    loop.hand(4 * MIN_AHEAD)
    assert loop.turn() == 0
    assert len(counting.trips) == 1
    assert len(loop.origin.outcomes) == 4 * MIN_AHEAD
    loop.link.close()


@pytest.mark.source
def test_while_the_store_works_on_many_changes_few_requests_wait_for_more(
    loop: Loop, counting: CountingStore, store: StoreConnection
) -> None:
    loop.hand(MIN_AHEAD)
    assert store.execute([("CLIENT", "PAUSE", 60_000, "WRITE")]) == [b"OK"]
    counting.trips.clear()
    assert loop.turn() == 1
    assert not loop.origin.outcomes
    loop.hand(1)
    assert loop.turn() == 1
    assert len(counting.trips) == 1
    loop.hand(MIN_AHEAD)
    store.execute([("CLIENT", "UNPAUSE")])
    loop.finish()
    assert len(loop.origin.outcomes) == 2 * MIN_AHEAD + 1


class NewTariff(NoNews):
    """A version that is there, once; of the one before nothing is left when it is said to be used no more."""

    def __init__(self, before: Snapshot) -> None:
        self._before = before
        self._news = [Snapshot(before.epoch + 1, {}, {})]

    def take(self) -> Snapshot | None:  # type: ignore[override]
        return self._news.pop() if self._news else None

    def report_in_use(self, epoch: int) -> None:
        assert epoch == self._before.epoch + 1
        for tariff in self._before.tenants.values():
            for _ in tariff.take_apart():
                pass


@pytest.mark.source
def test_a_tariff_is_in_use_until_what_was_begun_with_it_has_landed(
    loop: Loop, store: StoreConnection, service: Service
) -> None:
    loop.hand(1, "GetCost")
    loop.finish()
    loop.hand(3, "GetCost")
    loop.hand(MIN_AHEAD)
    assert store.execute([("CLIENT", "PAUSE", 60_000, "WRITE")]) == [b"OK"]
    assert loop.turn() == 1
    loop.worker._watch = cast(TariffWatch, NewTariff(service.snapshot))
    store.execute([("CLIENT", "UNPAUSE")])
    loop.finish()
    first, *quotes = (loop.origin.outcomes[seq] for seq in range(1, 5))
    assert first.code == 0
    assert quotes == [first] * 3


@pytest.mark.source
def test_a_heartbeat_comes_when_all_flights_have_landed(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks at the store, on the connection of the flights."""
    monkeypatch.setattr(worker_module, "HEARTBEAT_MS", 0)
    loop.worker._next_beat_us = 0
    loop.hand(4 * MIN_AHEAD)
    assert loop.turn() == 0
    assert len(loop.origin.outcomes) == 4 * MIN_AHEAD


@pytest.mark.source
def test_a_store_that_was_away_until_nobody_waited_any_more_is_tried_again(
    loop: Loop, counting: CountingStore
) -> None:
    counting.lose_replies = 1_000_000
    loop.hand(3, within_us=300_000)
    loop.finish()
    assert {outcome.code for outcome in loop.origin.outcomes.values()} == {DeadlineExceeded.code}
    assert False in loop.link.took_work
    assert loop.link.took_work[-1], "else no balancer would ever send it work again"
    counting.lose_replies = 0
    loop.hand(3)
    loop.finish()
    assert len(loop.origin.outcomes) == 6


@pytest.mark.source
def test_the_loop_does_not_end_with_a_flight_under_way(loop: Loop) -> None:
    loop.hand(4 * MIN_AHEAD)
    loop.worker._stop_asked = True
    loop.link.leave = loop.link.goodbye = lambda: None  # type: ignore[attr-defined]
    assert loop.turn() == 1
    assert not loop.worker._finished()
    loop.finish()
    assert loop.worker._finished()
    assert len(loop.origin.outcomes) == 4 * MIN_AHEAD


@pytest.mark.source
def test_busy_is_the_time_with_work_on_hand(loop: Loop) -> None:
    began_us = time.monotonic_ns() // 1000
    loop.hand(4 * MIN_AHEAD)
    loop.finish()
    passed_us = time.monotonic_ns() // 1000 - began_us
    assert 0 < sum(loop.link.busy_us) <= passed_us
