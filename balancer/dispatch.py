"""Which rater gets which request, when, and what becomes of it: a state machine without I/O.

Events go in as method calls, each with the monotonic time in µs; what is to be done comes out as
actions (`balancer.actions`). Nothing here knows sockets, clocks or gateways.

A request is in one of these states:

    submit ──▶ waiting ──flush──▶ in flight ──reply──▶ answered, forgotten
                  ▲                   │
                  └── its rater left, ┘      past its deadline, in either state: DeadlineExceeded
                      died or is silent      its raters died twice: Quarantined

Invariants, which the tests check after every step:

* every request is answered exactly once, and no later than its deadline plus one tick;
* no rater has more requests in flight than the credit it announced; leaving raters, silent ones
  and those without a tariff get none;
* waiting and in flight together never exceed `max_queued` nor MAX_QUEUED_BYTES, nor while raters work
  what they can answer within `max_wait` (`balancer.admission`); beyond them Overloaded is the answer;
* a request keeps its sequence number for all its attempts, so they share one idempotency token;
* a request that waits is held by no rater but silent ones.

A request goes to the front of the queue again, without limit up to its deadline, when its rater
left, died or could not be reached: that repeats no work, as that rater is gone.

A rater is dead when its connection is gone, which the router finds out by sending (`lost`). One that
is only *silent* may be busy with a long batch: it gets no more work, and what it has goes to the
front of the queue too, but it keeps its part in that and its late replies count. Once it is heard
again, what still waits is left to it. Silence is no death, even when the connection ends later, but
it makes no more than MAX_ATTEMPTS attempts of a request: one that stalls every rater is then left to
those that have it, up to its deadline.

*Second copies* repeat work for raters that are heard: a request without reply for `attempt_timeout`
is also sent to another rater, and the first reply wins. They too are limited to MAX_ATTEMPTS, need a
rater with free credit, and are paid for from a budget (`sharing.CopyBudget`), so that a slow store
does not double its own load. Under overload all requests are late, and there are none.

Replies are passed on unread, but for errors: a body that is no error object would break a gateway,
and "nothing was done" is a rater's word about its own attempt only.

Source: docs/architecture.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from balancer.actions import (
    Action,
    Answer,
    Rater,
    Request,
    Send,
    SendDrained,
    Sink,
    answer,
    failure,
    new_tuple,
    without,
)
from balancer.admission import Admission
from balancer.sharing import CopyBudget, load, share_out
from common.errors import (
    DeadlineExceeded,
    InternalError,
    Overloaded,
    Quarantined,
    ShuttingDown,
    decode_error,
    encode_error,
)
from common.methods import Method
from common.wire import HEARTBEAT_MS, SILENCE_US, WorkItem

MAX_TICK_GAP_US: Final = HEARTBEAT_MS * 1000
"""Ticks further apart mean that this process was held up, and heard nobody: no rater's silence."""

MAX_DEATHS: Final = 2
"""One rater may die of anything; a second one with the same request makes that request suspect."""

MAX_ATTEMPTS: Final = 3
"""The first and at most two copies: if three raters are stuck with it, so is a fourth."""

NOTHING_DONE: Final = (DeadlineExceeded.code, Overloaded.code, ShuttingDown.code)
"""Errors that may say that nothing was done: raters refuse what is late, and the balancers that a gateway
asks refuse as it does itself."""

UNKNOWN_BODY: Final = encode_error(
    DeadlineExceeded(
        detail="an earlier attempt was not answered and a later one was refused; "
        "whether it was carried out is unknown"
    )
)

MAX_QUEUED_BYTES: Final = 256 * 1024 * 1024
"""Parameters of all requests that are here. `max_queued` ordinary ones are a tenth of it; as many of
the largest that the gateways admit would be 20 GB, and the end of this process."""

MAX_RATERS: Final = 1_000
"""Each costs a heartbeat and a look at every batch; far more than one balancer can keep busy."""


@dataclass(frozen=True, slots=True)
class DispatchSettings:
    deadline_us: int = 5_000_000
    """From arrival to the answer, whatever happens. Clients of the switches give up later."""
    attempt_timeout_us: int = 1_500_000
    """Longer than any healthy batch, short enough for two more attempts before the deadline."""
    max_queued: int = 20_000
    """Waiting and in flight, whatever else: it bounds memory while no rater takes work."""
    max_wait_us: int = 500_000
    """What an admitted request waits for its answer under overload, about; half of the deadline counts at
    most. Long enough for full batches and a short pause of the store, short enough for a caller."""


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
        self._copy_budget = CopyBudget()
        self._admission = Admission(settings.max_queued, settings.max_wait_us, settings.deadline_us)
        self._retry_after_ms = settings.max_wait_us // 1000
        self._full = self._overloaded(f"{settings.max_queued} requests are waiting or in flight")
        self._too_slow = self._overloaded(
            f"as many requests are here as raters answer within {settings.max_wait_us // 1000} ms"
        )
        self._queued_bytes = 0
        self._late_bodies: dict[str, bytes] = {}
        self.copies = 0
        """Second copies that were made so far."""
        self.repeats = 0
        """Requests that went back to the queue so far, because their rater left, died or fell silent."""

    # --- what the balancer wants to know -----------------------------------------------------

    @property
    def unanswered(self) -> int:
        return sum(not request.answered for request in self._requests.values())

    @property
    def overloaded(self) -> bool:
        """More is asked than the raters can do: who wants much can be refused."""
        return self._admission.overloaded

    @property
    def readiness(self) -> Readiness:
        epochs = [rater.tariff_epoch for rater in self._raters.values() if rater.limit]
        return Readiness(len(epochs), max(epochs, default=0))

    @property
    def raters(self) -> Collection[Rater]:
        """To look at only."""
        return self._raters.values()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def present(self) -> int:
        """Waiting and in flight; and answered, while some rater still works on it."""
        return len(self._requests)

    @property
    def room(self) -> int:
        """With so many requests here, one more is refused."""
        return self._admission.room

    def rater_ids(self) -> list[bytes]:
        return list(self._raters)

    def silent_rater_ids(self) -> set[bytes]:
        return {rater.id for rater in self._raters.values() if rater.silent}

    def rater_name(self, rater_id: bytes) -> str | None:
        rater = self._raters.get(rater_id)
        return rater.name if rater else None

    @property
    def queued_bytes(self) -> int:
        """Parameters of all requests that are here."""
        return self._queued_bytes

    # --- requests ----------------------------------------------------------------------------

    def turn_away(self) -> bytes | None:
        """The error for one more request if there is no room for it, so that nobody need read it first."""
        if len(self._requests) < self._admission.room:
            return None
        self._admission.refused = True
        return self._too_slow if self.overloaded else self._full

    def submit(self, request: Request, now_us: int) -> Answer | None:
        """Queue a request for the next `flush`, or refuse it at once."""
        if len(self._requests) >= self._admission.room:
            self._admission.refused = True
            return self.refuse(request)
        if self._closing:
            return failure(request, ShuttingDown())
        queued_bytes = self._queued_bytes + len(request.params)
        if queued_bytes > MAX_QUEUED_BYTES:
            detail = f"requests of {self._queued_bytes >> 20} MiB are waiting or in flight"
            return answer(request, Overloaded.code, self._overloaded(detail))
        self._queued_bytes = queued_bytes
        self._last_seq = request.seq = self._last_seq + 1
        request.deadline_us = now_us + self._settings.deadline_us
        if request.work_deadline_us > request.deadline_us:  # then it is answered before
            request.work_deadline_us = 0
        self._requests[request.seq] = request
        self._waiting.append(request)
        return None

    def submit_all(self, calls: Sequence[tuple[int, Method, bytes]], sink: Sink, now_us: int) -> list[Answer]:
        """As `submit` for a request of each call: its slot in `sink`, method and parameters. The refusals."""
        first, count = self._last_seq + 1, len(calls)
        deadline_us = now_us + self._settings.deadline_us
        requests = [
            Request(method[0], params, "", None, sink, slot, 0, seq, deadline_us)  # method.name takes longer
            for seq, (slot, method, params) in enumerate(calls, first)
        ]
        queued_bytes = self._queued_bytes + sum([len(params) for _, _, params in calls])
        fits = len(self._requests) + count <= self._admission.room and queued_bytes <= MAX_QUEUED_BYTES
        if not fits or self._closing:
            refusals = [self.submit(request, now_us) for request in requests]
            return [refusal for refusal in refusals if refusal is not None]
        self._queued_bytes = queued_bytes
        self._last_seq += count
        self._requests.update(zip(range(first, first + count), requests, strict=True))
        self._waiting += requests
        return []

    def refuse(self, request: Request) -> Answer:
        """What `submit` answers while there are too many requests."""
        return answer(request, Overloaded.code, self._too_slow if self.overloaded else self._full)

    def _overloaded(self, detail: str) -> bytes:
        return encode_error(Overloaded(detail=detail, retry_after_ms=self._retry_after_ms))

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
            request.holders = request.holders + holders if request.holders else holders
            request.sent_us = now_us
            request.attempts += 1
        return [
            new_tuple(
                WorkItem,
                (
                    request.seq,
                    request.method,
                    request.params,
                    request.key,
                    request.work_deadline_us or request.deadline_us,
                ),
            )
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
        self._hear(rater, now_us)
        rater.name = name
        rater.credit = credit
        rater.tariff_epoch = tariff_epoch
        rater.update_limit()
        return joins

    def _hear(self, rater: Rater, now_us: int) -> None:
        rater.seen_us = now_us
        if rater.silent:
            rater.silent = False
            rater.update_limit()
            self._waiting = deque(request for request in self._waiting if rater not in request.holders)

    def replies(
        self, rater_id: bytes, rows: Iterable[Sequence[Any]], now_us: int, busy_us: int = 0
    ) -> list[Answer]:
        """A rater's replies: rows of sequence number, code, body, replayed; what they took it, if it says.

        A reply counts only if that rater has that request: late and repeated ones are dropped.
        """
        rater = self._raters.get(rater_id)
        if rater is None:
            return []
        self._hear(rater, now_us)
        alone = rater.alone
        requests = self._requests
        freed_bytes = freed = 0
        newest_us = 0
        answers = []
        for seq, code, body, replayed in rows:
            request = requests.get(seq)
            if request is None:
                continue
            if request.holders is alone:
                del requests[seq]
                freed_bytes += len(request.params)
                request.holders = ()
            elif rater in request.holders:
                request.holders = without(request.holders, rater)
            else:
                continue
            freed += 1
            if request.answered:
                continue
            request.answered = True
            if request.deadline_us > newest_us:  # noqa: PLR1730 (a call of max takes longer than the rest)
                newest_us = request.deadline_us
            if code or not body:
                answers.append(self._error_answer(rater, request, code, body, replayed))
            else:
                answers.append(new_tuple(Answer, (request, code, body, replayed)))
        rater.in_flight -= freed
        if busy_us > 0:
            rater.done += freed
            rater.busy_us += busy_us
        self._queued_bytes -= freed_bytes
        if answers:
            self._admission.replied(len(answers), now_us - newest_us + self._settings.deadline_us)
        return answers

    def _error_answer(self, rater: Rater, request: Request, code: int, body: bytes, replayed: bool) -> Answer:
        if code in NOTHING_DONE and (request.attempts > 1 or request.deaths):
            return answer(request, DeadlineExceeded.code, self._unknown_body(request, code))
        try:
            if decode_error(body).code == code:
                return Answer(request, code, body, replayed)
        except Exception:  # msgspec raises several unrelated types on bad input
            pass
        detail = f"rater {rater.name} made a faulty reply: code {code}, {len(body)} bytes"
        return failure(request, InternalError(detail=detail))

    def leave(self, rater_id: bytes, now_us: int) -> list[SendDrained]:
        """A rater wants no more work. What it has, it will still answer.

        A rater that is not known (its connection was lost) is entered as a leaving one: its
        heartbeats go on while it finishes, and must not make it look fresh.
        """
        if rater_id not in self._raters:
            self.state(rater_id, "", 0, 0, now_us)
        rater = self._raters.get(rater_id)
        if rater is not None:
            self._hear(rater, now_us)
            rater.leaving = True
            rater.update_limit()
        return [SendDrained(rater_id)]

    def goodbye(self, rater_id: bytes) -> list[Action]:
        """A rater is gone, in order: what it still had goes elsewhere."""
        return self.lost(rater_id, dead=False)

    def lost(self, rater_id: bytes, unsent: Set[int] = frozenset(), *, dead: bool) -> list[Action]:
        """A message could not be sent to a rater: it is out; `dead` if its connection is gone.

        `unsent` are the sequence numbers of work that never reached it and so cannot have killed it.
        """
        rater = self._raters.pop(rater_id, None)
        if rater is None:
            return []
        died = dead and not rater.leaving and not rater.silent
        actions: list[Action] = []
        again = []
        waiting = {request.seq for request in self._waiting} if rater.silent else set()
        for request in [held for held in self._requests.values() if rater in held.holders]:
            request.holders = without(request.holders, rater)
            request.attempts -= request.seq in unsent
            request.deaths += died and request.seq not in unsent
            if not request.answered:
                if request.is_worked_on() or request.seq in waiting:
                    continue
                if rater.silent and request.holders:
                    continue  # it had all its attempts, and is left to the other silent ones
                if request.deaths < MAX_DEATHS:
                    again.append(request)
                    continue
                actions.append(failure(request, Quarantined(raters=request.deaths)))
            if not request.holders:
                self._remove(request)
        self._waiting.extendleft(reversed(again))
        self.repeats += len(again)
        return actions

    def _remove(self, request: Request) -> None:
        del self._requests[request.seq]
        self._queued_bytes -= len(request.params)

    # --- the passing of time -----------------------------------------------------------------

    def tick(self, now_us: int) -> list[Action]:
        """Deadlines, silent raters, second copies. A `flush` should follow."""
        gap_us = now_us - self._last_tick_us if self._last_tick_us is not None else 0
        self._last_tick_us = now_us
        if gap_us > MAX_TICK_GAP_US:
            for rater in self._raters.values():
                rater.seen_us = min(rater.seen_us + gap_us, now_us)
        actions: list[Action] = self._expire(now_us)
        for rater in self._raters.values():
            if now_us - rater.seen_us >= SILENCE_US and not rater.silent:
                self._pass_over(rater)
        self._copy_budget.earn(self._last_seq, gap_us)
        if self._admission.is_due(now_us):
            speeds = [rater.measure_speed() for rater in self._raters.values() if rater.limit]
            speed_per_s = sum(speeds) if all(speeds) else 0.0
            self._admission.look(now_us, len(self._requests), speed_per_s, takes_work=bool(speeds))
        return actions + self._copies(now_us)

    def _pass_over(self, rater: Rater) -> None:
        """A rater fell silent: what only silent ones have may go elsewhere."""
        rater.silent = True
        rater.update_limit()
        again = [
            request
            for request in self._requests.values()
            if rater in request.holders
            and not (request.answered or request.is_worked_on())
            and request.attempts < MAX_ATTEMPTS
            and request.deaths < MAX_DEATHS
        ]
        self._waiting.extendleft(reversed(again))
        self.repeats += len(again)

    def _expire(self, now_us: int) -> list[Action]:
        late = []
        for request in self._requests.values():
            if request.deadline_us > now_us:
                break
            late.append(request)
        actions: list[Action] = []
        waited = False
        for request in late:
            self._remove(request)
            waited = waited or not request.is_worked_on()
            for rater in request.holders:
                rater.in_flight -= 1  # by now it has dropped the request itself, or is stuck
            if not request.answered:
                request.answered = True
                actions.append(answer(request, DeadlineExceeded.code, self._late_body(request)))
        if waited:
            self._waiting = deque(request for request in self._waiting if not request.answered)
        return actions

    def _unknown_body(self, request: Request, code: int) -> bytes:
        """For what is refused although an earlier attempt may have been, or still be, carried out."""
        if code == DeadlineExceeded.code:
            return self._late_body(request)
        return UNKNOWN_BODY

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
        if self.overloaded:
            return []
        timeout_us = self._settings.attempt_timeout_us
        youngest_us = now_us - timeout_us + self._settings.deadline_us
        free = [rater for rater in self._raters.values() if rater.in_flight < rater.limit]
        batches: dict[bytes, list[WorkItem]] = {}
        for request in self._requests.values():
            if not free or self._copy_budget.is_spent() or request.deadline_us > youngest_us:
                break
            overdue = now_us - request.sent_us >= timeout_us and request.is_worked_on()
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
            self._copy_budget.spend()
            self.copies += 1
            request.holders += rater.alone
            request.sent_us = now_us
            request.attempts += 1
            batches.setdefault(rater.id, []).append(request.work_item())
        return [Send(rater_id, items) for rater_id, items in batches.items()]
