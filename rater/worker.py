"""The work loop: take everything that has arrived, do it as one batch, answer, again.

One plain synchronous loop with no timers: what arrives while a batch is in progress is the next
batch. It polls the links to the balancers, the direct JSON-RPC connections and a wake-up pipe (for
signals and for new tariffs), and lets heartbeats out in between, so that they tell the truth about
the loop itself.

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
from contextlib import suppress
from types import FrameType
from typing import Final

import zmq

from common.about import StoreHealth
from common.about import encode as encode_about
from common.clock import monotonic_us
from common.errors import DeadlineExceeded, Overloaded, StoreUnavailable
from common.notify import Notifier
from common.wire import HEARTBEAT_MS
from rater.direct import DirectServer
from rater.jobs import Job, Undecided, failed
from rater.link import Link
from rater.service import Service
from rater.tariff_watch import TariffWatch
from rater.telemetry import RaterTelemetry

log = logging.getLogger(__name__)

BATCH_JOBS: Final = 512
"""Jobs for one round trip to the store: enough to spread its cost, few enough to stay under 20 ms."""

MIN_BATCH_JOBS: Final = 4
"""However slow requests are: a batch of a few shares its round trip, and takes little of a heartbeat."""

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
        ready = dict(self._poller.poll(self._poll_timeout_ms()))
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
        busy_us = 0
        if self._backlog and now_us >= self._retry_at_us:
            began_us = monotonic_us()
            self._work_one_batch()
            busy_us = monotonic_us() - began_us
        if now_us >= self._next_beat_us:
            self._beat(now_us)
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

    def _poll_timeout_ms(self) -> int:
        if (self._backlog and not self._retry_at_us) or (self._direct is not None and self._direct.busy):
            return 0
        wait_us = self._next_beat_us - monotonic_us()
        if self._backlog:
            wait_us = min(wait_us, self._retry_at_us - monotonic_us())
        return max(0, -(-wait_us // 1000))

    def _work_one_batch(self) -> None:
        now_us = monotonic_us()
        jobs = []
        for _ in range(min(self._batch_jobs, len(self._backlog))):
            job = self._backlog.popleft()
            if job.deadline_us <= now_us:
                late = LATE_UNKNOWN if job.attempted else LATE
                job.origin.reply(job.seq, late)
                self.telemetry.answered([job], [late])
            else:
                jobs.append(job)
        again = self._process(jobs)
        self._backlog.extendleft(reversed(again))
        # As many as get done in the time that a batch may take: what is left over was read in vain.
        done = len(jobs) - len(again)
        self._batch_jobs = max(MIN_BATCH_JOBS, done) if again else min(2 * self._batch_jobs, BATCH_JOBS)

    def _process(self, jobs: list[Job]) -> list[Job]:
        """Answer what gets decided; the others are to be processed again."""
        if not self._service.snapshot.epoch:
            # Before the first tariff there is nothing to decide by: like a balancer's, requests wait.
            self._retry_at_us = monotonic_us() + RETRY_US
            return jobs
        again = []
        lost = self._retry_at_us
        self._retry_at_us = 0
        began_us = monotonic_us()
        outcomes = self._service.process(jobs)
        self.telemetry.batch(jobs, outcomes, monotonic_us() - began_us)
        for job, outcome in zip(jobs, outcomes, strict=True):
            if outcome is Undecided.UNKNOWN:
                job.attempted = True
                again.append(job)
                self._retry_at_us = monotonic_us() + RETRY_US
            elif outcome is Undecided.NOT_BEGUN:
                again.append(job)
            else:
                job.origin.reply(job.seq, outcome)
        if bool(lost) != bool(self._retry_at_us):
            self._next_beat_us = 0  # balancers should know at once whether to send work here
        return again

    def _take_new_tariff(self) -> None:
        snapshot = self._watch.take()
        if snapshot is None:
            return
        self._service.snapshot = snapshot
        self._watch.report_in_use(snapshot.epoch)
        self._retry_at_us = 0  # what waited for a first tariff waits no more, and work may come
        self._next_beat_us = 0
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
        memory = self._watch.memory
        store = StoreHealth(
            ok=not self._retry_at_us and self._service.store_answers,
            url=self._service.store_url,
            used_memory=memory.used,
            max_memory=memory.limit,
            round_trip_us=self._service.store_round_trip_us,
        )
        about = encode_about(self.telemetry.about(now_us, self._service.snapshot.versions, store))
        for link in self._links:
            link.tell(about)

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
        if self._leave_until_us is None or self._backlog:
            return False
        timed_out = monotonic_us() >= self._leave_until_us
        drained = all(link.drained for link in self._links)
        quiet = self._direct is None or self._direct.idle
        if not (timed_out or (drained and quiet)):
            return False
        for link in self._links:
            link.goodbye()
        return True
