"""The values that dispatch works with: requests, raters, and the actions it asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec

from common.errors import RatelError, encode_error
from common.wire import WorkItem

new_tuple = tuple.__new__
"""Makes named tuples in a quarter of the time that their own constructors take."""

OnAnswer = Callable[[int, bytes, bool], None]
"""Takes a reply: error code or 0, JSON text, whether it is a replay."""


class Sink(Protocol):
    """Takes the replies to many requests; `slot` says to which."""

    def answer(self, slot: int, code: int, body: bytes) -> None: ...


class Rater:
    """One rater as dispatch sees it."""

    __slots__ = (
        "alone",
        "busy_us",
        "credit",
        "done",
        "id",
        "in_flight",
        "leaving",
        "limit",
        "name",
        "seen_us",
        "silent",
        "speed_per_s",
        "tariff_epoch",
        "turn",
    )

    def __init__(self, rater_id: bytes, name: str, now_us: int) -> None:
        self.id = rater_id
        self.name = name
        self.credit = 0
        self.tariff_epoch = 0
        self.leaving = False
        self.silent = False
        self.limit = 0
        """How many requests may be in flight here; 0 while it must not get work."""
        self.in_flight = 0
        self.seen_us = now_us
        self.turn = 0
        """The last sequence number when it last got work: breaks ties, so that equals take turns."""
        self.alone: tuple[Rater, ...] = (self,)
        """The `holders` of every request that only this rater has: one tuple, compared by identity."""

        self.done = self.busy_us = 0
        """What it answered since its speed was last measured, and the time that it took, where it says so."""
        self.speed_per_s = 0.0
        """What it does in a second of work; 0 is not known."""

    def measure_speed(self) -> float:
        """From what it did since this was last asked, or as it was."""
        if self.busy_us > 0:
            self.speed_per_s = self.done * 1_000_000 / self.busy_us
            self.done = self.busy_us = 0
        return self.speed_per_s

    def update_limit(self) -> None:
        barred = self.leaving or self.silent or self.tariff_epoch <= 0
        self.limit = 0 if barred else max(self.credit, 0)


class Request(msgspec.Struct, eq=False, gc=False):
    """One request on its way. The gateway fills in the fields up to `work_deadline_us`, dispatch the others.

    It waits (held by silent raters or none), is in flight or is over. An answered request that some rater
    still works on stays known until that rater replies, so that its credit is counted as taken.
    """

    method: str
    params: bytes
    key: str
    """As in `common.wire`."""
    on_answer: OnAnswer | None
    """Not called by dispatch: it travels along for whoever performs the `Answer`. None: there is a `sink`."""
    sink: Sink | None = None
    slot: int = 0
    work_deadline_us: int = 0
    """Until when it may be done, where that is earlier than the deadline for its answer; else 0."""
    seq: int = 0
    deadline_us: int = 0
    sent_us: int = 0
    """When the newest attempt began."""
    attempts: int = 0
    deaths: int = 0
    """Raters that died while they had it; not those that fell silent or left."""
    answered: bool = False
    holders: tuple[Rater, ...] = ()
    """The raters that have it now; a single one as its `alone`."""

    def is_worked_on(self) -> bool:
        """Some rater has it that is not silent."""
        return not all(rater.silent for rater in self.holders)

    def work_item(self) -> WorkItem:
        fields = (self.seq, self.method, self.params, self.key, self.work_deadline_us or self.deadline_us)
        return new_tuple(WorkItem, fields)


def without(holders: tuple[Rater, ...], rater: Rater) -> tuple[Rater, ...]:
    rest = tuple(holder for holder in holders if holder is not rater)
    return rest[0].alone if len(rest) == 1 else rest


class Send(NamedTuple):
    """Send these items to a rater, in one message."""

    rater_id: bytes
    items: list[WorkItem]


class Answer(NamedTuple):
    """Hand this reply to the request's gateway. There is exactly one for every request."""

    request: Request
    code: int
    body: bytes
    replayed: bool


class SendDrained(NamedTuple):
    """Tell a leaving rater that nothing more will be sent to it."""

    rater_id: bytes


Action = Send | Answer | SendDrained


def answer(request: Request, code: int, body: bytes) -> Answer:
    request.answered = True
    return Answer(request, code, body, False)


def failure(request: Request, error: RatelError) -> Answer:
    return answer(request, error.code, encode_error(error))
