"""A Dispatch under watch: it is told events, and asserts after each what must hold whatever happens.

The watch is a second, simpler account of the same events: who was sent what, who still owes a reply,
which raters died. It knows the rules that `balancer.dispatch` states, none of its code. Only
`check_inside` and `check_empty` look at the dispatcher's own containers, for what leaks or disagrees.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from balancer.actions import Action, Answer, Request, Send, SendDrained, Sink
from balancer.dispatch import MAX_ATTEMPTS, MAX_DEATHS, MAX_QUEUED_BYTES, Dispatch, DispatchSettings
from balancer.sharing import COPIES_PER_S, COPY_PARTS
from common.errors import DeadlineExceeded, Overloaded, Quarantined, ShuttingDown
from common.methods import Method
from common.wire import WorkItem

ON_SUBMIT: Final = {Overloaded.code, ShuttingDown.code}
"""Refusals that a request gets at once or never."""


class Watched:
    """The events of `Dispatch`, by the same names, and its actions, checked."""

    def __init__(self, dispatch: Dispatch, settings: DispatchSettings) -> None:
        self.dispatch = dispatch
        self.answered = 0
        self.seen: Counter[str] = Counter()
        """What happened here at all: a watch that saw no trouble proves nothing."""
        self.open: dict[int, Request] = {}
        """Admitted and not answered, by sequence number: in the order of their deadlines."""
        self.flying: dict[bytes, set[int]] = {}
        """Who owes replies to what. Requests that are over stay until the reply or the deadline."""
        self.gone: Counter[int] = Counter()
        """Raters that were forgotten while they had the request."""
        self.deaths: Counter[int] = Counter()
        """Those of them that died of it, perhaps."""
        self._settings = settings
        self._limits: dict[bytes, int] = {}
        self._leaving: set[bytes] = set()
        self._deadlines: dict[int, int] = {}
        """Of all that may still be in flight somewhere."""
        self._items: dict[int, WorkItem] = {}
        self._sent: Counter[int] = Counter()
        self._sent_us: dict[int, int] = {}
        self._held_bytes = 0
        self._copies = 0
        self._last_seq = 0
        self._began_us: int | None = None

    def submit(self, request: Request, now_us: int) -> Answer | None:
        refusal = self.dispatch.submit(request, now_us)
        if refusal is not None:
            assert refusal.request is request
            self._refused(refusal)
            return refusal
        self._admitted(request, now_us)
        return None

    def submit_all(self, calls: Sequence[tuple[int, Method, bytes]], sink: Sink, now_us: int) -> list[Answer]:
        refusals = self.dispatch.submit_all(calls, sink, now_us)
        for refusal in refusals:
            self._refused(refusal)
        new = [request for seq, request in self.dispatch._requests.items() if seq > self._last_seq]
        for request in new:
            self._admitted(request, now_us)
        assert [request.deadline_us for request in new] == [now_us + self._settings.deadline_us] * len(new)
        both = [*new, *(refusal.request for refusal in refusals)]
        fields = [(request.slot, request.method, request.params, request.sink) for request in both]
        assert sorted(fields) == sorted((slot, method.name, params, sink) for slot, method, params in calls)
        return refusals

    def _refused(self, refusal: Answer) -> None:
        assert refusal.code in ON_SUBMIT, f"refused with {refusal.code}"
        self.seen["refused"] += 1

    def _admitted(self, request: Request, now_us: int) -> None:
        assert request.seq > self._last_seq, "a sequence number was used twice"
        self._last_seq = request.seq
        self._deadlines[request.seq] = now_us + self._settings.deadline_us
        self.open[request.seq] = request
        self._held_bytes += len(request.params)
        assert len(self.open) <= self._settings.max_queued, "more requests than the bound"
        assert self._held_bytes <= MAX_QUEUED_BYTES, "more bytes than the bound"

    def state(self, rater: bytes, name: str, credit: int, epoch: int, now_us: int) -> bool:
        joins = self.dispatch.state(rater, name, credit, epoch, now_us)
        self._limits[rater] = max(credit, 0) if epoch > 0 else 0
        return joins

    def replies(self, rater: bytes, rows: Sequence[Sequence[Any]], now_us: int) -> list[Answer]:
        owed = self.flying.get(rater, frozenset())
        said = {row[0]: tuple(row[1:]) for row in reversed(rows) if row[0] in owed}
        answers = self.dispatch.replies(rater, rows, now_us)
        for answer in answers:
            seq = answer.request.seq
            assert seq in said, "a reply counted that the rater did not owe"
            as_it_came = (answer.code, answer.body, answer.replayed) == said[seq]
            assert as_it_came or answer.code == DeadlineExceeded.code, "a reply was changed on its way"
        if owed:
            self.flying[rater].difference_update(said)
        self._watch(answers, now_us)
        return answers

    def leave(self, rater: bytes, now_us: int) -> list[SendDrained]:
        actions = self.dispatch.leave(rater, now_us)
        if rater in self.dispatch.rater_ids():
            self._leaving.add(rater)
        self._watch(actions, now_us)
        return actions

    def goodbye(self, rater: bytes, now_us: int) -> list[Action]:
        self._forget(rater, frozenset(), dead=False)
        actions = self.dispatch.goodbye(rater)
        self._watch(actions, now_us)
        return actions

    def lost(self, rater: bytes, unsent: Iterable[int], now_us: int, *, dead: bool) -> list[Action]:
        unsent = frozenset(unsent)
        self._forget(rater, unsent, dead=dead)
        actions = self.dispatch.lost(rater, unsent, dead=dead)
        self._watch(actions, now_us)
        return actions

    def _forget(self, rater: bytes, unsent: frozenset[int], *, dead: bool) -> None:
        had = self.flying.pop(rater, set())
        self.gone.update(had)
        if dead and rater not in self._leaving and rater not in self.dispatch.silent_rater_ids():
            self.deaths.update(had - unsent)
            self.seen["death"] += 1
        self._leaving.discard(rater)

    def flush(self, now_us: int) -> list[Send]:
        actions = self.dispatch.flush(now_us)
        first = [item.seq for send in actions for item in send.items if item.seq not in self._sent]
        again = len(first) < sum(len(send.items) for send in actions)
        self.seen["sent again"] += again
        self._watch(actions, now_us)
        if first:
            self._check_order(max(first))
        return actions

    def _check_order(self, newest: int) -> None:
        """Nothing that has waited longer may be passed over: not what waits again, least of all."""
        held = set().union(*self.flying.values())
        for seq in self.open:
            if seq > newest:
                break
            assert seq in held, "a newer request was sent before one that waits"

    def tick(self, now_us: int) -> list[Action]:
        if self._began_us is None:
            self._began_us = now_us
        actions = self.dispatch.tick(now_us)
        for seq, deadline_us in list(self._deadlines.items()):
            if deadline_us > now_us:
                break
            del self._deadlines[seq]
            for seqs in self.flying.values():
                seqs.discard(seq)
        copies = [item.seq for action in actions if type(action) is Send for item in action.items]
        for seq in copies:
            passed_us = now_us - self._sent_us[seq]
            assert passed_us >= self._settings.attempt_timeout_us, "a second copy before its time"
        self._copies += len(copies)
        self.seen["copy"] += bool(copies)
        earned = self._last_seq / COPY_PARTS + COPIES_PER_S * (1 + (now_us - self._began_us) / 1_000_000)
        assert self._copies <= earned, "more copies than the budget"
        self.seen["silence"] += bool(self.dispatch.silent_rater_ids())
        self._watch(actions, now_us)
        oldest = next(iter(self.open.values()), None)
        assert oldest is None or oldest.deadline_us > now_us, "open past its deadline"
        return actions

    # --- what comes out ------------------------------------------------------------------------

    def _watch(self, actions: Iterable[Action], now_us: int) -> None:
        for action in actions:
            if type(action) is Answer:
                self._check_answer(action)
            elif type(action) is Send:
                self._check_send(action, now_us)
            else:
                assert type(action) is SendDrained
        self.check_inside()

    def _check_answer(self, answer: Answer) -> None:
        seq = answer.request.seq
        assert self.open.pop(seq, None) is answer.request, "answered twice"
        self._held_bytes -= len(answer.request.params)
        self.answered += 1
        assert answer.code not in ON_SUBMIT, "refused after it was admitted"
        if answer.code == Quarantined.code:
            self.seen["quarantined"] += 1
            assert self.deaths[seq] >= MAX_DEATHS, "given up for raters that did not die"
        elif answer.code == DeadlineExceeded.code:
            self.seen["deadline"] += 1

    def _check_send(self, send: Send, now_us: int) -> None:
        assert send.items
        assert send.rater_id not in self._leaving, "work for a leaving rater"
        assert send.rater_id not in self.dispatch.silent_rater_ids(), "work for a silent rater"
        flying = self.flying.setdefault(send.rater_id, set())
        for item in send.items:
            seq = item.seq
            assert seq in self.open, "work for a request that is over"
            assert seq not in flying, "the same rater got it twice"
            assert item == self._items.setdefault(seq, item), "an attempt differs from the first"
            assert item.deadline_us == self._deadlines[seq], "the deadline moved"
            assert self.deaths[seq] < MAX_DEATHS, "sent again after two raters died of it"
            flying.add(seq)
            self._sent[seq] += 1
            self._sent_us[seq] = now_us
            assert self._sent[seq] <= MAX_ATTEMPTS + self.gone[seq], "too many attempts"
        assert len(flying) <= self._limits[send.rater_id], "more in flight than the credit"

    # --- the dispatcher's own books --------------------------------------------------------------

    def check_inside(self) -> None:
        dispatch = self.dispatch
        assert dispatch.unanswered == len(self.open), "a request vanished"
        held: list[bytes] = []
        silent = {rater.id for rater in dispatch._raters.values() if rater.silent}
        waiting = {request.seq for request in dispatch._waiting}
        assert len(waiting) == len(dispatch._waiting), "a request waits twice"
        assert waiting <= self.open.keys(), "a request waits that is over"
        for seq, request in dispatch._requests.items():
            holders = [rater.id for rater in request.holders]
            held += holders
            if seq in waiting:
                assert silent.issuperset(holders), "a request waits that a rater works on"
            else:
                assert holders, "nobody has a request, and it does not wait"
            for rater in holders:
                assert seq in self.flying[rater], "a holder that does not have it"
        in_flight = Counter(held)
        for rater in dispatch._raters.values():
            assert rater.in_flight == in_flight[rater.id], "in_flight is miscounted"
        parameters = sum([len(request.params) for request in dispatch._requests.values()])
        assert dispatch._queued_bytes == parameters, "the bytes are miscounted"

    def check_empty(self) -> None:
        """After every reply and deadline: nothing is left of any request."""
        assert not self.open, "unanswered after healing"
        assert not self.dispatch._requests, "a request is over and still known"
        self.check_inside()
