"""The work loop: take everything that has arrived, do it as one batch, answer, again.

One plain synchronous loop with no timers: what arrives while a batch is in progress is the next
batch. While the store works on many changes, the next batch is begun if it is a large one, too, so that
rater and store work side by side; small batches are waited for. The loop polls the links to the balancers,
the direct JSON-RPC connections and a wake-up pipe (for signals and for new tariffs), and lets heartbeats out
in between, so that they tell the truth about the loop itself.

When the store is out of reach, the undecided jobs stay in the backlog and are tried again, under
the same tokens, until their deadlines; the loop goes on polling and beating meanwhile.

Draining (SIGTERM): LEAVE goes to every balancer and the direct port closes; each balancer answers
DRAINED once it has sent its last work; when the backlog is done, GOODBYE, and the loop ends.
"""

from __future__ import annotations

import logging
import os
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import FrameType
from typing import Final

import zmq

from common.about import MAX_NODES, NodeHealth, StoreHealth
from common.about import encode as encode_about
from common.clock import monotonic_us
from common.errors import DeadlineExceeded, Overloaded, StoreUnavailable
from common.histogram import Histogram
from common.process.notify import Notifier
from common.wire import HEARTBEAT_MS
from rater.direct import DirectServer
from rater.link import Link
from rater.outcome_log import log_outcomes
from rater.rating.snapshot import Snapshot
from rater.tariffs.watch import TariffWatch
from rater.telemetry import RaterTelemetry
from rater.work.apart import Apart
from rater.work.jobs import Job, Outcome, Undecided, failed
from rater.work.service import Flight, Service

log = logging.getLogger(__name__)

BATCH_JOBS: Final = 512
"""Jobs for one round trip to the store: enough to spread its cost, few enough to stay under 20 ms."""

MIN_BATCH_JOBS: Final = 4
"""However slow requests are: a batch of a few shares its round trip, and takes little of a heartbeat."""

MAX_FLIGHTS: Final = 2
"""Batches that the store has at a time: it works on one while this process works on the other. Where changes
wait for disks or replicas it is one, as large as may be: the store would leave the other alone meanwhile."""

MIN_AHEAD: Final = 48
"""Changes of a batch during which the next one may begin, and requests that are worth that: so many keep the
store busy for longer than this loop takes to wake, and share what a batch costs. More changes are shared out
to all flights, or the first would take what the second could begin with."""

RETRY_US: Final = 100_000
"""Pause between attempts while the store is out of reach: short beside any deadline."""

MAX_BACKLOG_JOBS: Final = 20_000
"""Direct requests beyond it are answered `overloaded`. Work from balancers is bounded by the credit."""

ABOUT_US: Final = 1_000_000
"""People look at a rater's state about so often."""

LATE: Final = failed(DeadlineExceeded(detail="nothing was done before it"))
LATE_UNKNOWN: Final = failed(DeadlineExceeded(detail="whether it was carried out is unknown"))
OVERLOADED: Final = failed(Overloaded(detail=f"{MAX_BACKLOG_JOBS} requests wait at this rater"))

LEAVE_TIMEOUT_US: Final = 2_000_000
"""How long a leaving rater waits for balancers to say DRAINED; a dead one never will."""


class Worker:
    """Runs until `stop` is called, from a signal handler for example, and the backlog is done."""

    def __init__(
        self,
        name: str,
        service: Service,
        watch: TariffWatch,
        links: list[Link],
        direct: DirectServer | None,
    ) -> None:
        self._name = name
        self._service = service
        self._watch = watch
        self._links = links
        self._direct = direct
        self._backlog: deque[Job] = deque()
        self._apart = Apart()
        self._flights: deque[Flight] = deque()
        """In the order in which they are to go on."""
        self._max_flights = 1 if service.waits_for_copies else MAX_FLIGHTS
        self._busy_since_us = 0
        """When the first of them was begun, or one of them went on last."""
        self._busy_us = 0
        """How long there was something to do, since replies went out last."""
        self._poller = zmq.Poller()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poller.register(self._wake_read, zmq.POLLIN)
        for link in links:
            self._poller.register(link.socket, zmq.POLLIN)
        if direct is not None:
            direct.open(self._poller)
        self.telemetry = RaterTelemetry(monotonic_us())
        self._next_about_us = 0
        self._next_beat_us = 0
        self._retry_at_us = 0
        self._batch_jobs = BATCH_JOBS
        self._stop_asked = False
        self._leave_until_us: int | None = None
        self._notifier = Notifier()

    def stop(self) -> None:
        """Begin to drain. Safe to call from a signal handler or another thread."""
        self._stop_asked = True
        self.wake()

    def wake(self) -> None:
        with suppress(BlockingIOError):  # a full pipe wakes as well
            os.write(self._wake_write, b"!")

    def stop_on_signals(self) -> None:
        def handle(_number: int, _frame: FrameType | None) -> None:
            self.stop()

        signal.signal(signal.SIGTERM, handle)
        signal.signal(signal.SIGINT, handle)

    def run(self) -> None:
        self._watch.start(self.wake)
        try:
            while not self._finished():
                self._turn()
        finally:
            # The pipe that a handler would write into is about to be closed.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._watch.stop()
            for link in self._links:
                link.close()
            if self._direct is not None:
                self._direct.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._notifier.close()

    def _turn(self) -> None:
        ready = self._poll()
        now_us = monotonic_us()
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
        self._take_new_tariff()
        if self._stop_asked and self._leave_until_us is None:
            self._begin_to_leave(now_us)
        for link in self._links:
            if link.socket in ready:
                self._backlog.extend(link.receive())
                if link.is_new:
                    self._next_beat_us = 0  # it can give work as soon as it knows of us
        if self._direct is not None:
            self._take_direct(self._direct.handle(ready, now_us))
        self._backlog.extend(self._apart.due(now_us))
        self._work(ready)
        if now_us >= self._next_beat_us:
            while self._flights:  # the connection is needed for a look at the store
                self._go_on()
            self._beat(now_us)
        busy_us, self._busy_us = self._busy_us, 0
        self.telemetry.busy_us += busy_us
        for link in self._links:
            link.flush(busy_us)
        if self._direct is not None:
            self._direct.flush(now_us)

    def _take_direct(self, jobs: list[Job]) -> None:
        room = max(0, MAX_BACKLOG_JOBS - len(self._backlog))
        self._backlog.extend(jobs[:room])
        for job in jobs[room:]:
            job.origin.reply(job.seq, OVERLOADED)
            self.telemetry.answered([job], [OVERLOADED])

    def _poll(self) -> dict[object, int]:
        """What can be read: links, direct connections, the pipe, and the store while that is waited for."""
        store = self._service.store.fileno() if self._awaits_store() else -1
        if store < 0:
            return dict(self._poller.poll(self._poll_timeout_ms()))
        self._poller.register(store, zmq.POLLIN)
        try:
            return dict(self._poller.poll(self._poll_timeout_ms()))
        finally:
            self._poller.unregister(store)

    def _poll_timeout_ms(self) -> int:
        if self._direct is not None and self._direct.busy:
            return 0
        wait_us = self._next_beat_us - monotonic_us()
        if self._flights:
            if not self._awaits_store():
                return 0
        elif self._backlog:
            if not self._retry_at_us:
                return 0
            wait_us = min(wait_us, self._retry_at_us - monotonic_us())
        if self._apart.due_us is not None:
            wait_us = min(wait_us, self._apart.due_us - monotonic_us())
        return max(0, -(-wait_us // 1000))

    # --- batches ---------------------------------------------------------------------------------

    def _work(self, ready: dict[object, int]) -> None:
        while self._begins_now():
            self._begin_batch()
        if self._flights and not (self._awaits_store() and self._service.store.fileno() not in ready):
            self._go_on()

    def _awaits_store(self) -> bool:
        """Whether replies or requests are next, whichever come first; else the replies are waited for."""
        flights, store = self._flights, self._service.store
        if not flights or len(flights) == self._max_flights or flights[0].changes < MIN_AHEAD:
            return False
        return store.unread > 0 and not store.has_input

    def _begins_now(self) -> bool:
        if not self._backlog or monotonic_us() < self._retry_at_us:
            return False
        if not self._flights:
            return True
        return (
            len(self._backlog) >= MIN_AHEAD
            and len(self._flights) < self._max_flights
            and self._flights[0].changes >= MIN_AHEAD
        )

    def _begin_batch(self) -> None:
        now_us = monotonic_us()
        if not self._service.snapshot.epoch:
            # Before the first tariff there is nothing to decide by: like a balancer's, requests wait.
            self._retry_at_us = now_us + RETRY_US
            return
        if not self._flights:
            self._busy_since_us = now_us
        backlog = self._backlog
        jobs = []
        changes = max(MIN_AHEAD, len(backlog) // (self._max_flights - len(self._flights)))
        for _ in range(min(self._batch_jobs, len(backlog))):
            job = backlog.popleft()
            if job.deadline_us <= now_us:
                late = LATE_UNKNOWN if job.attempted else LATE
                job.origin.reply(job.seq, late)
                self.telemetry.answered([job], [late])
                continue
            jobs.append(job)
            if job.method is not None and job.method.mutates:
                changes -= 1
                if not changes:
                    break
        if jobs:
            self._flights.append(self._service.begin(jobs))
        elif not self._flights and self._retry_at_us:
            # Nobody is left to try the store for, and balancers send no work meanwhile: only new work will
            # tell whether it is back.
            self._retry_at_us = 0
            self._next_beat_us = self._next_about_us = 0

    def _go_on(self) -> None:
        """Let the oldest flight go on, and hand out what it brings when it lands."""
        flight = self._flights.popleft()
        if not flight.landed:
            self._service.go_on(flight)
        if flight.landed:
            self._land(flight)
        else:
            self._flights.append(flight)
        now_us = monotonic_us()
        self._busy_us += now_us - self._busy_since_us
        self._busy_since_us = now_us

    def _land(self, flight: Flight) -> None:
        """Answer what was decided; the others are to be processed again."""
        again = []
        lost = self._retry_at_us
        self._retry_at_us = 0
        self.telemetry.batch(flight.jobs, flight.outcomes, monotonic_us() - flight.begun_us)
        if log.isEnabledFor(logging.DEBUG):
            log_outcomes(flight)
        for job, outcome in zip(flight.jobs, flight.outcomes, strict=True):
            if type(outcome) is Outcome:  # nearly all are
                job.origin.reply(job.seq, outcome)
            elif outcome is Undecided.UNKNOWN:
                job.attempted = True
                again.append(job)
                self._retry_at_us = monotonic_us() + RETRY_US
            elif outcome is Undecided.NOT_BEGUN:
                again.append(job)
            elif outcome is Undecided.APART:
                self._apart.add(job, monotonic_us())
        if bool(lost) != bool(self._retry_at_us):
            self._next_beat_us = self._next_about_us = 0  # balancers should know at once whether to send work
        self._backlog.extendleft(reversed(again))
        # As many as get done in the time that a batch may take: what is left over was read in vain.
        done = len(flight.jobs) - len(again)
        self._batch_jobs = max(MIN_BATCH_JOBS, done) if again else min(2 * self._batch_jobs, BATCH_JOBS)

    def _take_new_tariff(self) -> None:
        snapshot = self._watch.take()
        if snapshot is None:
            return
        while self._flights:  # they rate by the one before, of which nothing is left once this is in use
            self._go_on()
        self._service.snapshot = snapshot
        self._watch.report_in_use(snapshot.epoch)
        self._retry_at_us = 0  # what waited for a first tariff waits no more, and work may come
        self._next_beat_us = self._next_about_us = 0
        log.info("tariff epoch=%s tenants=%s", snapshot.epoch, len(snapshot.tenants))

    def _beat(self, now_us: int) -> None:
        self._next_beat_us = now_us + HEARTBEAT_MS * 1000
        store_answers = not self._retry_at_us
        if store_answers:
            try:
                self._service.look_at_store()
            except StoreUnavailable as error:
                store_answers = False
                log.warning("store unavailable: %s", error)
        self._tell_service_manager(store_answers)
        for link in self._links:
            link.beat(self._name, self._service.snapshot.epoch, takes_work=not self._retry_at_us)
        if now_us >= self._next_about_us:
            self._next_about_us = now_us + ABOUT_US
            self._tell_about_us(now_us)

    def _tell_about_us(self, now_us: int) -> None:
        about = self.telemetry.about(now_us, self.snapshot.versions, self.store_health())
        text = encode_about(about)
        for link in self._links:
            link.tell(text)

    # --- for those who look ----------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        return self._service.snapshot

    @property
    def backlog(self) -> int:
        return len(self._backlog)

    @property
    def links(self) -> Sequence[Link]:
        return self._links

    @property
    def store_trips(self) -> Histogram:
        return self._service.store_trips

    @property
    def store_failures(self) -> Mapping[str, int]:
        return self._service.failures.counts

    def store_health(self) -> StoreHealth:
        memory = self._watch.memory
        nodes = sorted(memory.nodes, key=lambda node: node.answers)
        return StoreHealth(
            ok=not self._retry_at_us and self._service.store_answers,
            url=self._service.store.where,
            used_memory=memory.used,
            max_memory=memory.limit,
            round_trip_us=self._service.store_round_trip_us,
            nodes=tuple(NodeHealth(*node) for node in nodes[:MAX_NODES]),
        )

    def _tell_service_manager(self, store_answers: bool) -> None:
        """Ready is a rater that has the tariffs that there are, a store that answers, and a balancer.

        Without any tariff it is ready too: `ratel load` may come later. One balancer is enough: another that
        is away is no reason to hold up what starts after the raters.
        """
        notifier, epoch = self._notifier, self._service.snapshot.epoch
        joined = sum(link.joined for link in self._links)
        notifier.alive()
        if self._leave_until_us is not None:
            return
        if not store_answers:
            notifier.status("waiting for the store")
        elif not self._watch.is_settled:
            notifier.status("reading the tariff")
        elif not joined and self._direct is None:
            notifier.status("waiting for a balancer")
        else:
            tariff = f"tariff epoch {epoch}" if epoch else "no tariff loaded yet"
            notifier.status(f"{tariff}, {joined} of {len(self._links)} balancers joined")
            notifier.ready()

    def _begin_to_leave(self, now_us: int) -> None:
        log.info("draining")
        self._notifier.stopping()
        self._notifier.status("draining")
        self._leave_until_us = now_us + LEAVE_TIMEOUT_US
        for link in self._links:
            link.leave()
        if self._direct is not None:
            self._direct.stop_accepting()

    def _finished(self) -> bool:
        if self._leave_until_us is None or self._backlog or self._flights or self._apart:
            return False
        timed_out = monotonic_us() >= self._leave_until_us
        drained = all(link.drained for link in self._links)
        quiet = self._direct is None or self._direct.idle
        if not (timed_out or (drained and quiet)):
            return False
        for link in self._links:
            link.goodbye()
        return True
