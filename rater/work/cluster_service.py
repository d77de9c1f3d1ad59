"""What a rater does with a batch when its store is a cluster: as `rater.work.service`, account by account.

A script call must keep to one slot, so each account has calls and reads of its own; they go out together, a
pipeline to each node. A node that can't be reached, or a slot that is on its way to another one, leaves the
requests of its own accounts undecided (`Undecided.APART`) and nobody else's.

Deadlines go out by our monotonic clock, and the connection sets them for the node that each ends up at
(`common.storage.cluster`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterable, Sequence
from itertools import groupby, repeat
from typing import ClassVar

from redis.exceptions import ResponseError

from common.errors import NotDurable
from common.storage.cluster import ClusterConnection
from common.storage.cluster_trip import NO_WAITS, ClusterCommand, Timed
from common.storage.durability import DEFAULT_DURABILITY, Durability
from common.storage.store import Command, Reply
from common.storage.stores import Store
from rater.accounts.looks import JOURNAL_READ
from rater.accounts.mutations import deadline_places, read_command
from rater.rating.snapshot import Snapshot
from rater.store.confirmed import waits_of
from rater.store.scripts import LOADS
from rater.work.change import Change
from rater.work.jobs import Job, Outcome, Undecided
from rater.work.rounds import Read, Round, account_of
from rater.work.service import LATE_THERE, MAX_CLOCK_STEP_US, Flight, Service, passes

log = logging.getLogger(__name__)


class ClusterRound(Round):
    def _calls(self, changes: list[Change]) -> list[list[Change]]:
        accounts = groupby(changes, key=account_of)
        return [call for _, same in accounts for call in super(ClusterRound, self)._calls(list(same))]

    def _reads(self, accounts: list[bytes]) -> list[Command]:
        return [read_command((account,)) for account in accounts]


class ClusterService(Service):
    """The lists of a round are as many commands, and each read is one; else as its base."""

    _passing: ClassVar = Undecided.APART

    def __init__(
        self,
        store: ClusterConnection,
        snapshot: Snapshot,
        *,
        key_ttl_ms: int,
        journal_lines: int,
        durability: Durability = DEFAULT_DURABILITY,
    ) -> None:
        super().__init__(
            store, snapshot, key_ttl_ms=key_ttl_ms, journal_lines=journal_lines, durability=durability
        )
        self._cluster = store
        self._waits = waits_of(durability)

    def measure_store_clock(self) -> None:
        """Each node has its own, which its connection measures."""
        self._cluster.connect_all()
        self._clock_of = self._cluster.number
        self.store_round_trip_us = self._cluster.round_trip_us

    def _new_round(self) -> Round:
        return ClusterRound()

    def _round_trip(
        self, commands: list[Command], *, changes: int
    ) -> Generator[None, None, tuple[list[Reply], Iterable[NotDurable | None]]]:
        waits = self._waits if changes else NO_WAITS
        timed: list[ClusterCommand] = [
            Timed(command, deadline_places(command, int(command[2]) // 3)) for command in commands[:changes]
        ]
        trip = self._cluster.send([*timed, *commands[changes:]], changes=changes, waits=waits, loads=LOADS)
        yield
        self._cluster.receive(trip)
        replies = trip.replies[:changes]
        if len(commands) > changes:
            reads = sum(command[0] != JOURNAL_READ for command in commands[changes:])
            accounts = trip.replies[changes : changes + reads]
            replies.append([reply[0] if type(reply) is list else reply for reply in accounts])
            replies += trip.replies[changes + reads :]  # of journals
        if not waits.commands:
            return replies, repeat(None)
        # What was not done needs no confirmation, and its node was not asked for one, or did not answer.
        return replies, [
            None if isinstance(reply, ResponseError) else self._shortfall(confirmed)
            for reply, confirmed in zip(replies[:changes], trip.confirmed, strict=False)
        ]

    def _take_reads(
        self,
        jobs: Sequence[Job],
        reads: Sequence[Read],
        reply: Reply,
        further: Round,
        outcomes: list[Outcome | Undecided],
    ) -> None:
        apart = {
            place for place, value in enumerate(reply) if isinstance(value, ResponseError) and passes(value)
        }
        if apart:
            for place in apart:
                self.failures.refused(reply[place])
            self._complain_apart(len(apart), reply[next(iter(apart))])
            for index, place, *_ in reads:
                if place in apart:
                    outcomes[index] = Undecided.APART
            reads = [read for read in reads if read[1] not in apart]
        super()._take_reads(jobs, reads, reply, further, outcomes)

    def _take_changes(
        self,
        jobs: Sequence[Job],
        done: Iterable[tuple[Sequence[Change], Reply, NotDurable | None]],
        further: Round,
        outcomes: list[Outcome | Undecided],
    ) -> list[int]:
        decided = []
        for changes, reply, shortfall in done:
            if isinstance(reply, ResponseError) and passes(reply):
                self.failures.refused(reply)
                self._complain_apart(len(changes), reply)
                for change in changes:
                    outcomes[change.job] = Undecided.APART
            else:
                decided.append((changes, reply, shortfall))
        return super()._take_changes(jobs, decided, further, outcomes)

    def _decide_late(self, flight: Flight, expired: Sequence[int]) -> Generator[None, None, None]:
        in_time = self._cluster.measure_clocks() <= MAX_CLOCK_STEP_US
        for index in expired:
            flight.outcomes[index] = Undecided.NOT_BEGUN if in_time else LATE_THERE
        yield from ()

    def _complain_apart(self, requests: int, error: ResponseError) -> None:
        """A slot that is on its way is nothing to tell of, a node that is away is."""
        if str(error).startswith("TRYAGAIN"):
            return
        held = self._warnings.passes(time.monotonic())
        if held is not None:
            log.warning("apart=%s held_back=%s %s", requests, held, error)


def service_for(
    store: Store,
    snapshot: Snapshot,
    *,
    key_ttl_ms: int,
    journal_lines: int,
    durability: Durability = DEFAULT_DURABILITY,
) -> Service:
    """The service for this kind of store."""
    if isinstance(store, ClusterConnection):
        return ClusterService(
            store, snapshot, key_ttl_ms=key_ttl_ms, journal_lines=journal_lines, durability=durability
        )
    return Service(store, snapshot, key_ttl_ms=key_ttl_ms, journal_lines=journal_lines, durability=durability)
