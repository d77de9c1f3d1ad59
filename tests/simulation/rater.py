"""A rater as the simulated world has it: it does what `rater.worker` and `rater.work.service` do.

One loop: what has arrived is a batch; what is late is dropped; the batch's commands go to the store
together; what the store did not decide is tried again. Beats go out between batches. Its clock for
deadlines is the real one, `rater.link.Peer`.

It can be made to die or to stall at four points of its next batch, and dies of poison always.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from common.errors import DeadlineExceeded, StoreUnavailable, encode_error
from common.wire import HEARTBEAT_MS, WorkItem
from rater.link import Peer
from tests.simulation.network import MS, Link
from tests.simulation.store import Debit, Outcome

if TYPE_CHECKING:
    from tests.simulation.balancer import Balancer
    from tests.simulation.world import World

BATCH_JOBS: Final = 16
RETRY_US: Final = 100 * MS
STORE_TIMEOUT_US: Final = 800 * MS
LEAVE_TIMEOUT_US: Final = 2_000 * MS
KEY_TTL_US: Final = 3_600_000 * MS
TOKEN_MARGIN_US: Final = 10_000 * MS
"""Shorter than the real one: any margin above the errors of clocks must do. Those are as large as the
least delay of a message (`rater.link`): here some seconds, where a way was blocked, and a clock's step."""

POISON: Final = b"poison"
LATE: Final = Outcome(
    DeadlineExceeded.code, encode_error(DeadlineExceeded(detail="nothing was done before it"))
)
LATE_UNKNOWN: Final = Outcome(
    DeadlineExceeded.code, encode_error(DeadlineExceeded(detail="whether it was carried out is unknown"))
)
NOT_DONE: Final = Outcome(StoreUnavailable.code, encode_error(StoreUnavailable(detail="it is full")))


class Doom(Enum):
    """What happens to a rater in the middle of its next batch."""

    DIE_BEFORE_WRITE = "dies before the write"
    DIE_AFTER_WRITE = "dies after the write"
    STALL_BEFORE_WRITE = "stalls before the write"
    STALL_AFTER_WRITE = "stalls after the write"


class Job(NamedTuple):
    link: Link
    item: WorkItem
    deadline_us: int
    """On the rater's clock."""
    attempted: bool = False


class Rater:
    """One life of a rater's process."""

    def __init__(self, world: World, life: int, credit: int, epoch: int) -> None:
        self.world = world
        self.name = f"r{life}"
        self.id = self.name.encode()
        self.alive = True
        self.leaving = False
        self.stalled_until_us = 0
        self.doom: Doom | None = None
        self.credit = credit
        self.epoch = epoch
        self.backlog: deque[Job] = deque()
        self._clock_offset_us = world.below(10**9)
        self._store_offset_us: int | None = None
        self._store_term = 0
        self._links: list[Link] = []
        self._peers: dict[str, Peer] = {}
        self._replies: dict[str, list[tuple[int, int, bytes, bool]]] = {}
        self._drained: set[str] = set()
        self._inbox: list[tuple[Any, ...]] = []
        self._busy = False
        self._woken = False
        self._next_beat_us = 0
        self._retry_at_us = 0
        self._leave_until_us = 0
        self._beat_later()

    def join(self, balancer: Balancer) -> None:
        self._links = [link for link in self._links if link.balancer.alive]
        link = Link(self.world, self, balancer)
        self._links.append(link)
        balancer.links[self.id] = link
        self.world.at(self.world.below(50 * MS), link.connect)

    @property
    def clock_us(self) -> int:
        return self.world.now_us + self._clock_offset_us

    # --- the loop --------------------------------------------------------------------------------

    def receive(self, *message: Any) -> None:
        if self.alive:
            self._inbox.append(message)
            self._wake()

    def _beat_later(self) -> None:
        """The loop wakes for each heartbeat."""
        if self.alive:
            self._wake()
            self.world.at(HEARTBEAT_MS * MS, self._beat_later)

    def _wake(self) -> None:
        if not (self._busy or self._woken):
            self._woken = True
            self.world.at(0, self._turn)

    def _turn(self) -> None:
        self._woken = False
        if not self.alive or self._busy or self._held_up(self._turn):
            return
        for message in self._inbox:
            self._read(*message)
        self._inbox.clear()
        if self.backlog and self.world.now_us >= self._retry_at_us:
            self._begin_batch()
        else:
            self._end_turn()

    def _held_up(self, step: Any, *arguments: Any) -> bool:
        """Stopped processes do at once what they have missed when they go on."""
        if self.stalled_until_us <= self.world.now_us:
            return False
        self.world.at_time(self.stalled_until_us, step, *arguments)
        return True

    def _read(self, kind: str, link: Link, sent_us: int, items: list[WorkItem] | None) -> None:
        balancer_id = link.balancer.id
        if kind == "drained":
            self._drained.add(balancer_id)
            return
        peer = self._peers.get(balancer_id)
        if peer is None:
            peer = self._peers[balancer_id] = Peer(balancer_id, sent_us, self.clock_us)
        else:
            peer.clock_difference.see(sent_us, self.clock_us)
        for item in items or ():
            self.backlog.append(Job(link, item, item.deadline_us + peer.clock_difference.us))

    def _end_turn(self) -> None:
        """Heartbeat, replies, and the next turn."""
        world = self.world
        if self.leaving and not self._leave_until_us:
            self._leave_until_us = world.now_us + LEAVE_TIMEOUT_US
            self._tell("leave")
        if world.now_us >= self._next_beat_us:
            self._next_beat_us = world.now_us + HEARTBEAT_MS * MS
            if not self._retry_at_us:
                self._measure_store_clock()
            self._tell("state", 0 if self._retry_at_us else self.credit, self.epoch)
        for link in self._links:
            rows = self._replies.pop(link.balancer.id, None)
            if rows and link.up:
                link.to_balancer.send(link.balancer.receive, "done", link, self, link.balancer.id, rows)
        if self.backlog:
            world.at(max(0, self._retry_at_us - world.now_us), self._wake)
        elif self._leave_until_us and not self._inbox:
            self._finish()

    def _tell(self, kind: str, *fields: Any) -> None:
        for link in self._links:
            if link.up:
                link.to_balancer.send(link.balancer.receive, kind, link, self, *fields)
            elif kind == "leave":
                self._drained.add(link.balancer.id)

    def _finish(self) -> None:
        drained = all(link.balancer.id in self._drained or not link.up for link in self._links)
        if drained or self.world.now_us >= self._leave_until_us:
            self._tell("goodbye")
            self.world.seen["goodbye"] += 1
            self.alive = False
            self.world.rater_ended()
            self.world.at(500 * MS, self._disconnect)

    @property
    def idle(self) -> bool:
        return not (self.backlog or self._busy or self._inbox)

    def take_tariff(self) -> None:
        self.epoch = 1
        self._retry_at_us = self._next_beat_us = 0
        self._wake()

    # --- a batch ---------------------------------------------------------------------------------

    def _measure_store_clock(self) -> None:
        world, store = self.world, self.world.store
        self._store_term = store.term
        if store.up_from_us <= world.now_us and store.stalled_until_us <= world.now_us:
            error_us = world.below(MS)
            self._store_offset_us = store.clock_offset_us - self._clock_offset_us + error_us

    def _begin_batch(self) -> None:
        jobs = []
        for _ in range(min(BATCH_JOBS, len(self.backlog))):
            job = self.backlog.popleft()
            if job.deadline_us <= self.clock_us:
                self._reply(job, LATE_UNKNOWN if job.attempted else LATE)
            elif not self.epoch:
                self.backlog.appendleft(job)
                self._retry_at_us = self.world.now_us + RETRY_US
                break
            else:
                jobs.append(job)
        for job in jobs:
            if POISON in job.item.params:
                self.world.book.killed_by(job.link.balancer, job.item.seq)
                self.kill()
                return
        if self._store_offset_us is None:
            self._measure_store_clock()
        if not jobs:
            self._settle([], [[]])
            return
        self._busy = True
        if self.doom is Doom.DIE_BEFORE_WRITE:
            self.kill()
        else:
            if self.doom is Doom.STALL_BEFORE_WRITE:
                self._stall()
            self.world.at(MS, self._write, jobs)

    def _stall(self) -> None:
        self.world.seen["stall"] += 1
        self.doom = None
        self.stalled_until_us = self.world.now_us + self.world.below(6_000) * MS

    def _write(self, jobs: list[Job]) -> None:
        """The commands leave this process; from here on the store may carry them out, whatever happens."""
        if not self.alive or self._held_up(self._write, jobs):
            return
        world, store = self.world, self.world.store
        if self._store_offset_us is None or store.up_from_us > world.now_us:
            world.at(MS, self._settle, jobs, None)
            return
        answer: list[list[Outcome]] = []
        world.at(world.store_delay_us(), self._carry_out, jobs, store.term, answer)
        if self.doom is Doom.DIE_AFTER_WRITE:
            self.kill()
            return
        if self.doom is Doom.STALL_AFTER_WRITE:
            self._stall()
        world.at(STORE_TIMEOUT_US, self._time_out, jobs, answer)

    def _carry_out(self, jobs: list[Job], term: int, answer: list[list[Outcome]]) -> None:
        """In the store, whatever has become of this rater meanwhile."""
        world, store = self.world, self.world.store
        if store.stalled_until_us > world.now_us:
            world.at_time(store.stalled_until_us, self._carry_out, jobs, term, answer)
            return
        if term != store.term or store.up_from_us > world.now_us:
            return
        if store.writable_from_us > world.now_us:
            outcomes = [NOT_DONE] * len(jobs)
        else:
            outcomes = [store.carry_out(self._debit(job), world.now_us) for job in jobs]
        decided = [(job.item.seq, outcome.code) for job, outcome in zip(jobs, outcomes, strict=True)]
        world.note("store", "carries out", self.name, decided)
        world.book.check_store()
        world.at(world.store_delay_us(), self._confirm, jobs, term, len(store.log), outcomes, answer)

    def _confirm(
        self, jobs: list[Job], term: int, position: int, outcomes: list[Outcome], answer: list[list[Outcome]]
    ) -> None:
        """The replica has it too, or the connection has ended before: then nobody hears of it."""
        store = self.world.store
        if term == store.term and not answer:
            store.replicate_to(position)
            answer.append(outcomes)
            self._settle(jobs, answer)

    def _time_out(self, jobs: list[Job], answer: list[list[Outcome]]) -> None:
        if not answer:
            answer.append([])
            self.world.seen["store timeout"] += 1
            self._settle(jobs, None)

    def _settle(self, jobs: list[Job], answer: list[list[Outcome]] | None) -> None:
        if not self.alive or self._held_up(self._settle, jobs, answer):
            return
        lost = bool(self._retry_at_us)
        self._retry_at_us = 0
        if answer is None:
            self._retry_at_us = self.world.now_us + RETRY_US
            self.backlog.extendleft(job._replace(attempted=True) for job in reversed(jobs))
        else:
            for job, outcome in zip(jobs, answer[0], strict=True):
                self._reply(job, outcome)
        if lost != bool(self._retry_at_us):
            self._next_beat_us = 0
        self._busy = False
        self._end_turn()
        if self._inbox:
            self._wake()

    def _debit(self, job: Job) -> Debit:
        assert self._store_offset_us is not None
        item, balancer = job.item, job.link.balancer
        account, cents, number, *_ = item.params.split()
        left_us = max(0, job.deadline_us - self.clock_us)
        return Debit(
            self._token(job),
            int(account),
            int(cents),
            job.deadline_us + self._store_offset_us,
            KEY_TTL_US if item.key else left_us + TOKEN_MARGIN_US,
            item.key or f"{balancer.id}-{item.seq}",
            int(number),
            (balancer.id, item.seq),
        )

    def _token(self, job: Job) -> str:
        item = job.item
        return f"c:{item.key}" if item.key else f"g:{job.link.balancer.id}-{item.seq}"

    def _reply(self, job: Job, outcome: Outcome) -> None:
        self._replies.setdefault(job.link.balancer.id, []).append((job.item.seq, *outcome))

    # --- its end -----------------------------------------------------------------------------------

    def kill(self) -> None:
        self.world.seen["kill"] += 1
        self.world.note(self.name, "dies")
        self.alive = False
        self.world.rater_ended()
        self._disconnect()

    def _disconnect(self) -> None:
        for link in self._links:
            link.cut()

    def vanish(self) -> None:
        self.world.note(self.name, "vanishes")
        self.alive = False
        self.world.rater_ended()
        for link in self._links:
            link.vanish()
