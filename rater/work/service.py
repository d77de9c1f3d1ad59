"""What a rater does with a batch of requests: from jobs to outcomes, in few round trips to the store.

Every request is begun, which gives an outcome at once (it is wrong, it has no rate), or a *read* of an
account or a *change* of one; these steps of one request are in `rater.work.request_steps`. All reads of a
batch
are one command, all changes by one method one script call or a few (`rater.accounts.mutations`), and they go
out together. Most requests take that one round trip; a change that depends on the account's tariff plan is a
read first, then a change that names the plan.

A batch is a `Flight`: it pauses while its commands are with the store, and another one may begin meanwhile.
The store carries out in order what comes on one connection, so the later one sees the changes of the earlier
one, and flights go on in the order in which they paused. When the connection breaks, all that were paused
are undecided.

A request that fails, in whatever way, has its own outcome and never touches its neighbours'. Where a
script call with many changes fails as a whole, each of them is sent alone: those that were done already
are replays, and the error is that of the one that it belongs to. What could not be decided is `Undecided`,
and may be processed again, since a change is made at most once under its token.

Where changes must be safe before they are acknowledged (`common.storage.durability`), the wait for that goes
out behind each round's changes, in the same round trip. What too few copies confirmed is answered with
`NotDurable`, whatever its outcome was: that stands under its token, and a replay waits again.

Deadlines go to the scripts by the store's clock. It is measured anew on each new connection, which may
be to another host, before anything is sent there, and at once when it turns out to have been set forward.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from itertools import repeat
from time import monotonic_ns
from typing import ClassVar, Final

from redis.exceptions import ResponseError

from common.clock import monotonic_us
from common.errors import (
    DeadlineExceeded,
    InternalError,
    NotDurable,
    Overloaded,
    RatelError,
    StoreUnavailable,
)
from common.histogram import Histogram
from common.logs import Throttle
from common.storage.durability import DEFAULT_DURABILITY, Durability
from common.storage.store import Command, Reply, StoreConnection
from common.storage.stores import Store
from rater.accounts.looks import Look
from rater.accounts.mutations import is_expired, is_stored, parse_account
from rater.rating.snapshot import Snapshot
from rater.store.errors import store_error
from rater.store.scripts import round_trip
from rater.work.change import Change
from rater.work.jobs import Job, Outcome, Undecided, failed
from rater.work.request_steps import RequestSteps, read_answer
from rater.work.rounds import Read, Round
from rater.work.store_failures import StoreFailures

log = logging.getLogger(__name__)

MAX_ROUNDS: Final = 5
"""Round trips for one batch: a plan that changes under a request this often is being reloaded."""

PASSING_ERRORS: Final = ("LOADING", "BUSY", "MASTERDOWN", "READONLY", "NOSCRIPT")
PASSING_ERRORS_OF_CLUSTERS: Final = ("CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK", "NODELOST")
"""The store's words for states that end by themselves: the command was not run, or (`NODELOST`, see
`common.storage.cluster`) that is unknown, and it is tried again."""

MAX_CLOCK_STEP_US: Final = 30_000_000
"""The store's clock may be set forward by this much without requests failing for it. After a larger step
tokens may have expired, or in truth this host stood still and others have done the work long ago: what the
script drops then stays dropped. Half of `rater.work.request_steps.TOKEN_MARGIN_MS`, so that tokens outlive
what is done so late."""

TIME_BUDGET_US: Final = 50_000
"""Rating in one batch; reads beyond it are left for the next. A call of a month at hourly prices takes
10 ms to rate, and a work loop that is not heard from for 1.5 s is taken for dead."""

WARN_EVERY_S: Final = 5.0
"""A store that is away is reported no more often than this."""

_PASSING: Final = PASSING_ERRORS + PASSING_ERRORS_OF_CLUSTERS
_END: Final = object()

LATE_THERE: Final = failed(
    DeadlineExceeded(detail="it is past by the store's clock; whether the request was carried out is unknown")
)


class Flight:
    """A batch that was begun: its outcomes so far, and its way to the others."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.begun_us = monotonic_us()
        self.outcomes: list[Outcome | Undecided] = [Undecided.UNKNOWN] * len(jobs)
        self.changes = 0
        """How many of it the store works on."""
        self.clock_offset_us = 0
        """What was added to deadlines to have them by the store's clock."""
        self.landed = False
        """Whether the outcomes are final."""
        self.way: Generator[None, None, None]


class Service:
    """Processes batches against one store connection and the tariff `snapshot`."""

    _passing: ClassVar = Undecided.UNKNOWN
    """What a look is for which the store has no answer now."""

    def __init__(
        self,
        store: Store,
        snapshot: Snapshot,
        *,
        key_ttl_ms: int,
        journal_lines: int,
        durability: Durability = DEFAULT_DURABILITY,
    ) -> None:
        self._steps = RequestSteps(snapshot, key_ttl_ms=key_ttl_ms, journal_lines=journal_lines)
        self._store = store
        self._durability = durability
        self._clock_of = -1
        """The number of the connection on which that was measured."""
        self.store_answers = False
        self.store_round_trip_us = 0
        """Both as of the last look at the store; 0 is not known."""
        self.store_trips = Histogram()
        """From sending the commands of a batch to the last reply."""
        self.failures = StoreFailures()
        self._warnings = Throttle(WARN_EVERY_S)

    @property
    def snapshot(self) -> Snapshot:
        """The tariff that requests are rated by, and from then on, when another one is set."""
        return self._steps.snapshot

    @snapshot.setter
    def snapshot(self, snapshot: Snapshot) -> None:
        self._steps.snapshot = snapshot

    @property
    def store(self) -> Store:
        """To be told when replies are here; what is sent and received goes through flights."""
        return self._store

    @property
    def waits_for_copies(self) -> bool:
        """Whether changes wait for disks or replicas, and with them what is sent behind them."""
        return bool(self._durability.waits)

    def measure_store_clock(self) -> None:
        """Learn what to add to our monotonic clock to get the store's. Raises StoreUnavailable."""
        began_us = monotonic_us()
        self._steps.clock_offset_us = self._store.clock_offset_us(monotonic_us)
        self.store_round_trip_us = monotonic_us() - began_us
        self._clock_of = self._store.number

    def look_at_store(self) -> None:
        """With each heartbeat: is it still the primary, what time is it there? Raises StoreUnavailable."""
        self.store_answers = False
        try:
            self._store.leave_old_primary()
            self.measure_store_clock()
        except StoreUnavailable as error:
            self.failures.unavailable(error)
            raise
        self.store_answers = True

    def process(self, jobs: Sequence[Job]) -> list[Outcome | Undecided]:
        """The outcome of each job, in order. No flight may be under way."""
        flight = self.begin(jobs)
        while not flight.landed:
            self.go_on(flight)
        return flight.outcomes

    def begin(self, jobs: Sequence[Job]) -> Flight:
        """Send what the store is to do for these jobs."""
        flight = Flight(jobs)
        try:
            if self._clock_of != self._store.number:
                self.measure_store_clock()
        except StoreUnavailable as error:
            self._complain(len(jobs), error)
            flight.landed = True
            return flight
        flight.clock_offset_us = self._steps.clock_offset_us
        flight.way = self._way(flight)
        self.go_on(flight)
        return flight

    def go_on(self, flight: Flight) -> None:
        """Take the replies, for which this waits, and land, or send what follows from them.

        Of several flights the one is to go on that was paused first.
        """
        flight.landed = next(flight.way, _END) is _END

    def _way(self, flight: Flight) -> Generator[None, None, None]:
        """The way of a batch; it pauses where it waits for the store."""
        jobs, outcomes = flight.jobs, flight.outcomes
        work = self._begin_all(jobs, outcomes)
        for _ in range(MAX_ROUNDS):
            # Without the connection that the clock was measured on, what is left waits for another turn.
            if not work or self._clock_of != self._store.number:
                return
            try:
                commands = work.commands()
            except Exception as error:  # nothing was sent
                outcome = _failed(error)
                for index in work.places():
                    outcomes[index] = outcome
                return
            try:
                flight.changes = len(work.changes) + len(work.alone)
                sent_us = monotonic_us()
                replies, shortfalls = yield from self._round_trip(commands, changes=len(work.lists))
                self.store_trips.add(monotonic_us() - sent_us)
            except StoreUnavailable as error:
                self._complain(len(work.places()), error)
                return
            further = self._new_round()
            if work.looks:
                self._take_looks(jobs, work.looks, replies, outcomes)
            if work.reads or work.looks:
                self._take_reads(jobs, work.reads, replies.pop(), further, outcomes)
            # Shortfalls may be endless, the lists and their replies are as many.
            done = zip(work.lists, replies, shortfalls, strict=False)
            expired = self._take_changes(jobs, done, further, outcomes)
            if expired:
                yield from self._decide_late(flight, expired)
            work = further
        for index in work.places():
            outcomes[index] = failed(Overloaded(detail="the account's tariff plan keeps changing"))

    def _begin_all(self, jobs: Sequence[Job], outcomes: list[Outcome | Undecided]) -> Round:
        work = self._new_round()
        begin = self._steps.begin
        for index, job in enumerate(jobs):
            try:
                begin(index, job, work)
            except Exception as error:  # whatever is wrong with one must not touch the others
                outcomes[index] = _failed(error)
        for index in work.left:
            outcomes[index] = Undecided.NOT_BEGUN
        return work

    # --- a round trip ---------------------------------------------------------------------------

    def _new_round(self) -> Round:
        return Round()

    def _round_trip(
        self, commands: list[Command], *, changes: int
    ) -> Generator[None, None, tuple[list[Reply], Iterable[NotDurable | None]]]:
        """The replies to the commands, of which the first `changes` are changes, and for each of these the
        error when too few copies confirmed it."""
        waits, store = self._durability.waits, self._store
        assert isinstance(store, StoreConnection), "clusters have a service of their own"
        if not (waits and changes):
            return (yield from round_trip(store, commands)), repeat(None)
        replies = yield from round_trip(store, commands, waits)
        return replies[: len(commands)], repeat(self._shortfall(replies[-1]))

    def _take_reads(
        self,
        jobs: Sequence[Job],
        reads: Sequence[Read],
        reply: Reply,
        further: Round,
        outcomes: list[Outcome | Undecided],
    ) -> None:
        if isinstance(reply, ResponseError):
            self.failures.refused(reply)
            if not passes(reply):
                outcome = failed(store_error(reply))
                for index, *_ in reads:
                    outcomes[index] = outcome
            return
        give_up_ns = monotonic_ns() + 1000 * TIME_BUDGET_US
        for position, (index, place, descriptor, tariff) in enumerate(reads):
            if position and monotonic_ns() > give_up_ns:
                outcomes[index] = Undecided.NOT_BEGUN
                continue
            try:
                value = reply[place]
                account = None if value is None else parse_account(descriptor.subject, value)
                job = jobs[index]
                if tariff is None:
                    further.changes.append(self._steps.planned_change(index, job, descriptor, account))
                else:
                    outcomes[index] = Outcome(0, read_answer(job.method, tariff, descriptor, account))
            except Exception as error:
                outcomes[index] = _failed(error)

    def _take_looks(
        self,
        jobs: Sequence[Job],
        looks: Sequence[Look],
        replies: list[Reply],
        outcomes: list[Outcome | Undecided],
    ) -> None:
        """Their journals are the last replies, which it takes off; the one before has all accounts."""
        journals = replies[-len(looks) :]
        del replies[-len(looks) :]
        accounts = replies[-1]
        for look, journal in zip(looks, journals, strict=True):
            account: Reply = accounts if isinstance(accounts, ResponseError) else accounts[look.place]
            error = next((each for each in (account, journal) if isinstance(each, ResponseError)), None)
            if error is not None:
                if error is journal:  # an account's is that of the reads, see `_take_reads`
                    self.failures.refused(error)
                outcomes[look.job] = self._passing if passes(error) else failed(store_error(error))
                continue
            try:
                outcomes[look.job] = self._steps.look(jobs[look.job], look, account, journal)
            except Exception as defect:
                outcomes[look.job] = _failed(defect)

    def _take_changes(
        self,
        jobs: Sequence[Job],
        done: Iterable[tuple[Sequence[Change], Reply, NotDurable | None]],
        further: Round,
        outcomes: list[Outcome | Undecided],
    ) -> list[int]:
        """The jobs that scripts took to be past their deadline, which by our clock they are not."""
        expired: list[int] = []
        for changes, reply, shortfall in done:
            if isinstance(reply, ResponseError):
                self.failures.refused(reply)
                if len(changes) > 1 and not passes(reply):
                    further.alone += changes
                    continue
            given = isinstance(reply, list) and len(reply) == len(changes)
            for change, one in zip(changes, reply if given else [reply] * len(changes), strict=True):
                index = change.job
                if isinstance(one, ResponseError):
                    if given:
                        self.failures.refused(one)
                    if passes(one):
                        continue
                if shortfall and is_stored(one):
                    outcomes[index] = failed(shortfall)
                    continue
                try:
                    outcome = self._steps.finish(jobs[index], change, one, further)
                except Exception as error:
                    outcome = _failed(error)
                if outcome is not None:
                    outcomes[index] = outcome
                if is_expired(one) and jobs[index].deadline_us > monotonic_us():
                    expired.append(index)
        return expired

    def _decide_late(self, flight: Flight, expired: Sequence[int]) -> Generator[None, None, None]:
        """Scripts dropped what is in time by our clock: measure theirs anew, and say what becomes of that."""
        while self._store.unread:  # by other flights
            yield
        late: Outcome | Undecided = LATE_THERE
        with suppress(StoreUnavailable):
            self.measure_store_clock()
            if self._steps.clock_offset_us - flight.clock_offset_us <= MAX_CLOCK_STEP_US:
                late = Undecided.NOT_BEGUN
        for index in expired:
            flight.outcomes[index] = late

    def _shortfall(self, waited: Reply) -> NotDurable | None:
        missing = self._durability.shortfall(waited)
        if missing is None:
            return None
        held = self._warnings.passes(time.monotonic())
        if held is not None:
            log.warning(
                "not_durable level=%s copies=%s of=%s held_back=%s reply=%s",
                self._durability.level.value,
                missing.data["confirmed"],
                missing.data["copies"],
                held,
                waited,
            )
        return missing

    def _complain(self, undecided: int, error: StoreUnavailable) -> None:
        self.failures.unavailable(error)
        held = self._warnings.passes(time.monotonic())
        if held is not None:
            log.warning("undecided=%s held_back=%s %s", undecided, held, error)


def passes(error: ResponseError) -> bool:
    """The store is in a state that ends by itself."""
    return str(error).startswith(_PASSING)


def _failed(error: Exception) -> Outcome:
    """The outcome of a request whose work raised an error."""
    if isinstance(error, RatelError):
        return failed(error)
    log.error("a request failed", exc_info=error)
    return failed(InternalError(detail=type(error).__name__))
