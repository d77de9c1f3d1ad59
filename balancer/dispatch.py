"""Which rater gets which request, when, and what becomes of it: a state machine without I/O.

Events go in as method calls, each with the monotonic time in µs; what is to be done comes out as
actions (`balancer.actions`). Nothing here knows sockets, clocks or gateways.

A request is in one of these states:

    submit ──▶ waiting ──flush──▶ in flight ──reply──▶ answered, forgotten
                  ▲                   │
                  └── its rater left, ┘      past its deadline, in either state: DeadlineExceeded
                      died or is lost        its raters died twice: Quarantined

Invariants, which the tests check after every step:

* every request is answered exactly once, and no later than its deadline plus one tick;
* no rater has more requests in flight than the credit it announced, leaving raters and raters
  without a tariff get none;
* waiting and in flight together never exceed `max_queued`; beyond it Overloaded is the answer;
* a request keeps its sequence number for all its attempts, so they share one idempotency token.

A request goes to the front of the queue again, without limit up to its deadline, when its rater
left, died or could not be reached: that repeats no work, as that rater is gone. Only *second copies*
repeat work: a request without reply for `attempt_timeout` from a rater that is alive is also sent
to another one, and the first reply wins. They are limited to MAX_ATTEMPTS, need a rater with free
credit, and are paid for from a budget: each request adds a tenth of a copy to it, each second
COPIES_PER_S, and it holds at most MAX_COPIES. So a slow store does not double its own load.

Source: docs/architecture.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from balancer.actions import Action, Answer, Rater, Request, Send, SendDrained
from balancer.sharing import load, share_out
from common.errors import DeadlineExceeded, Overloaded, Quarantined, RatelError, ShuttingDown, encode_error
from common.wire import HEARTBEAT_MS, MISSED_BEATS, WorkItem

SILENCE_US: Final = HEARTBEAT_MS * MISSED_BEATS * 1000
"""A rater that was not heard for this long is out."""

MAX_TICK_GAP_US: Final = HEARTBEAT_MS * 1000
"""Ticks further apart mean that this process was held up, and heard nobody: no rater's silence."""

MAX_DEATHS: Final = 2
"""One rater may die of anything; a second one with the same request makes that request suspect."""

MAX_ATTEMPTS: Final = 3
"""The first and at most two copies: if three raters are stuck with it, so is a fourth."""

MAX_RATERS: Final = 1_000
"""Each costs a heartbeat and a look at every batch; far more than one balancer can keep busy."""

COPY_PARTS: Final = 10
"""The budget counts in tenths of a copy, one for each request: at most 10 % more load."""
COPIES_PER_S: Final = 10
"""Lets a balancer with little traffic repeat at all; nothing for a rater to notice."""
MAX_COPIES: Final = 500
"""What may be saved up: about one rater's batch, for when one gets stuck with it."""


@dataclass(frozen=True, slots=True)
class DispatchSettings:
    deadline_us: int = 5_000_000
    """From arrival to the answer, whatever happens. Clients of the switches give up later."""
    attempt_timeout_us: int = 1_500_000
    """Longer than any healthy batch, short enough for two more attempts before the deadline."""
    max_queued: int = 20_000
    """Waiting and in flight. At 10,000 requests/s this is 2 s of work: more could not make its deadline."""


class Readiness(NamedTuple):
    raters: int
    """Raters that can be given work."""
    tariff_epoch: int
    """The newest tariff among them; 0 without raters."""


class Dispatch:
    def __init__(self, settings: DispatchSettings) -> None:
        self._settings = settings
        self._requests: dict[int, Request] = {}
        """By sequence number, hence in order of arrival and of deadline."""
        self._waiting: deque[Request] = deque()
        self._raters: dict[bytes, Rater] = {}
        self._last_seq = 0
        self._closing = False
        self._last_tick_us: int | None = None
        self._copy_budget = COPY_PARTS * COPIES_PER_S
        self._copy_budget_seq = 0
        overloaded = Overloaded(detail=f"{settings.max_queued} requests are waiting or in flight")
        self._overloaded = overloaded.code, encode_error(overloaded)
        self._late_bodies: dict[str, bytes] = {}

    # --- what the balancer wants to know -----------------------------------------------------

    @property
    def unanswered(self) -> int:
        return sum(not request.answered for request in self._requests.values())

    @property
    def readiness(self) -> Readiness:
        epochs = [rater.tariff_epoch for rater in self._raters.values() if rater.limit]
        return Readiness(len(epochs), max(epochs, default=0))

    def rater_ids(self) -> list[bytes]:
        return list(self._raters)

    def rater_name(self, rater_id: bytes) -> str | None:
        rater = self._raters.get(rater_id)
        return rater.name if rater else None

    # --- requests ----------------------------------------------------------------------------

    def submit(self, request: Request, now_us: int) -> Answer | None:
        """Queue a request for the next `flush`, or refuse it at once."""
        if len(self._requests) >= self._settings.max_queued:
            return _answer(request, *self._overloaded)
        if self._closing:
            return _failure(request, ShuttingDown())
        self._last_seq = request.seq = self._last_seq + 1
        request.deadline_us = now_us + self._settings.deadline_us
        self._requests[request.seq] = request
        self._waiting.append(request)
        return None

    def flush(self, now_us: int) -> list[Send]:
        """Give what waits to the raters that have credit, one message each."""
        if not self._waiting:
            return []
        sends = []
        for rater, share in share_out(len(self._waiting), list(self._raters.values())):
            rater.turn = self._last_seq
            sends.append(Send(rater.id, self._take(rater, share, now_us)))
        return sends

    def _take(self, rater: Rater, count: int, now_us: int) -> list[WorkItem]:
        waiting, holders = self._waiting, rater.alone
        if count == len(waiting):
            batch = list(waiting)
            waiting.clear()
        else:
            batch = [waiting.popleft() for _ in range(count)]
        for request in batch:
            request.holders = holders
            request.sent_us = now_us
            request.attempts += 1
        return [
            WorkItem(request.seq, request.method, request.params, request.client_key, request.deadline_us)
            for request in batch
        ]

    def close(self) -> None:
        """Refuse new requests from now on; those that are here run on."""
        self._closing = True

    # --- what raters say ---------------------------------------------------------------------

    def state(self, rater_id: bytes, name: str, credit: int, tariff_epoch: int, now_us: int) -> bool:
        """A rater's heartbeat. True when it makes the rater known; False too when there is no room."""
        rater = self._raters.get(rater_id)
        joins = rater is None
        if rater is None:
            if len(self._raters) >= MAX_RATERS:
                return False
            rater = self._raters[rater_id] = Rater(rater_id, name, now_us)
        rater.seen_us = now_us
        rater.name = name
        rater.credit = credit
        rater.tariff_epoch = tariff_epoch
        rater.update_limit()
        return joins

    def replies(self, rater_id: bytes, rows: Iterable[Sequence[Any]], now_us: int) -> list[Answer]:
        """A rater's replies: rows of sequence number, code, body, replayed.

        A reply counts only if that rater has that request: late and repeated ones are dropped.
        """
        rater = self._raters.get(rater_id)
        if rater is None:
            return []
        rater.seen_us = now_us
        alone = rater.alone
        requests = self._requests
        answers = []
        for seq, code, body, replayed in rows:
            request = requests.get(seq)
            if request is None:
                continue
            if request.holders is alone:
                del requests[seq]
                request.holders = ()
            elif rater in request.holders:
                request.holders = _without(request.holders, rater)
            else:
                continue
            rater.in_flight -= 1
            if not request.answered:
                request.answered = True
                answers.append(Answer(request, code, body, replayed))
        return answers

    def leave(self, rater_id: bytes, now_us: int) -> list[SendDrained]:
        """A rater wants no more work. What it has, it will still answer.

        A rater that is not known (it was silent for too long) is entered as a leaving one: its
        heartbeats go on while it finishes, and must not make it look fresh.
        """
        if rater_id not in self._raters:
            self.state(rater_id, "", 0, 0, now_us)
        rater = self._raters.get(rater_id)
        if rater is not None:
            rater.seen_us = now_us
            rater.leaving = True
            rater.update_limit()
        return [SendDrained(rater_id)]

    def goodbye(self, rater_id: bytes) -> list[Action]:
        """A rater is gone, in order: what it still had goes elsewhere."""
        return self._forget(rater_id, died=False)

    def lost(self, rater_id: bytes, unsent: Collection[int] = ()) -> list[Action]:
        """A message could not be sent to a rater: it is out.

        `unsent` are the sequence numbers in that message, which never reached it and so cannot
        have caused its death.
        """
        return self._forget(rater_id, died=True, innocent=frozenset(unsent))

    def _forget(self, rater_id: bytes, *, died: bool, innocent: frozenset[int] = frozenset()) -> list[Action]:
        rater = self._raters.pop(rater_id, None)
        if rater is None:
            return []
        died = died and not rater.leaving
        actions: list[Action] = []
        again = []
        for request in [held for held in self._requests.values() if rater in held.holders]:
            request.holders = _without(request.holders, rater)
            request.deaths += died and request.seq not in innocent
            if request.holders:
                continue  # another rater has it too
            if request.answered:
                del self._requests[request.seq]
            elif request.deaths >= MAX_DEATHS:
                del self._requests[request.seq]
                actions.append(_failure(request, Quarantined(raters=request.deaths)))
            else:
                again.append(request)
        self._waiting.extendleft(reversed(again))
        return actions

    # --- the passing of time -----------------------------------------------------------------

    def tick(self, now_us: int) -> list[Action]:
        """Deadlines, silent raters, second copies. A `flush` should follow."""
        gap_us = now_us - self._last_tick_us if self._last_tick_us is not None else 0
        self._last_tick_us = now_us
        if gap_us > MAX_TICK_GAP_US:
            for rater in self._raters.values():
                rater.seen_us = min(rater.seen_us + gap_us, now_us)
        actions: list[Action] = self._expire(now_us)
        silent = [rater.id for rater in self._raters.values() if now_us - rater.seen_us >= SILENCE_US]
        for rater_id in silent:
            actions += self._forget(rater_id, died=True)
        earned = self._last_seq - self._copy_budget_seq + COPY_PARTS * COPIES_PER_S * gap_us // 1_000_000
        self._copy_budget = min(self._copy_budget + earned, COPY_PARTS * MAX_COPIES)
        self._copy_budget_seq = self._last_seq
        return actions + self._copies(now_us)

    def _expire(self, now_us: int) -> list[Action]:
        late = []
        for request in self._requests.values():
            if request.deadline_us > now_us:
                break
            late.append(request)
        actions: list[Action] = []
        waited = False
        for request in late:
            del self._requests[request.seq]
            waited = waited or not request.holders
            for rater in request.holders:
                rater.in_flight -= 1  # by now it has dropped the request itself, or is stuck
            if not request.answered:
                request.answered = True
                actions.append(_answer(request, DeadlineExceeded.code, self._late_body(request)))
        if waited:
            self._waiting = deque(request for request in self._waiting if not request.answered)
        return actions

    def _late_body(self, request: Request) -> bytes:
        """The error says where the request was, as the remedy depends on that."""
        if request.attempts:
            detail = "a rater took it and did not reply; whether it was carried out is unknown"
        elif not self._raters:
            detail = "no rater is there; nothing was done"
        elif not self.readiness.raters:
            detail = "no rater has a tariff; nothing was done"
        else:
            detail = "every rater is busy; nothing was done"
        body = self._late_bodies.get(detail)
        if body is None:
            error = DeadlineExceeded(detail=f"after {self._settings.deadline_us // 1000} ms {detail}")
            body = self._late_bodies[detail] = encode_error(error)
        return body

    def _copies(self, now_us: int) -> list[Action]:
        """Second copies of what a rater should have answered by now."""
        timeout_us = self._settings.attempt_timeout_us
        youngest_us = now_us - timeout_us + self._settings.deadline_us
        free = [rater for rater in self._raters.values() if rater.in_flight < rater.limit]
        batches: dict[bytes, list[WorkItem]] = {}
        for request in self._requests.values():
            if not free or self._copy_budget < COPY_PARTS or request.deadline_us > youngest_us:
                break
            overdue = request.holders and now_us - request.sent_us >= timeout_us
            if not overdue or request.answered or request.attempts >= MAX_ATTEMPTS:
                continue
            others = [rater for rater in free if rater not in request.holders]
            if not others:
                continue
            rater = min(others, key=load)
            rater.in_flight += 1
            if rater.in_flight >= rater.limit:
                free.remove(rater)
            rater.turn = self._last_seq
            self._copy_budget -= COPY_PARTS
            request.holders += rater.alone
            request.sent_us = now_us
            request.attempts += 1
            batches.setdefault(rater.id, []).append(_work_item(request))
        return [Send(rater_id, items) for rater_id, items in batches.items()]


def _work_item(request: Request) -> WorkItem:
    return WorkItem(request.seq, request.method, request.params, request.client_key, request.deadline_us)


def _without(holders: tuple[Rater, ...], rater: Rater) -> tuple[Rater, ...]:
    return tuple(holder for holder in holders if holder is not rater)


def _answer(request: Request, code: int, body: bytes) -> Answer:
    request.answered = True
    return Answer(request, code, body, False)


def _failure(request: Request, error: RatelError) -> Answer:
    return _answer(request, error.code, encode_error(error))
