"""Changes that an operator's command makes at the store itself: as safe before they are told as raters' are.

Who is told `blocked`, what credit is left, or which version is active, may rely on it after a failover at the
replicated levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from redis.exceptions import ResponseError

from common.errors import NotDurable
from common.storage.cluster import ClusterConnection
from common.storage.cluster_trip import Waits
from common.storage.durability import Durability
from common.storage.store import Command, Reply
from common.storage.stores import Store
from rater.store.scripts import LOADS, execute


class Made(NamedTuple):
    replies: list[Reply]
    """In the order of the commands; a refused one's is an error."""
    missing: NotDurable | None
    """Told of those that were made, when too few copies confirmed one of them."""


def make(store: Store, commands: Sequence[Command], durability: Durability) -> Made:
    """Send changes, at least one, and wait for their copies. Each has to write something, even one that was
    made before: copies are waited for as far as this connection has written. Raises StoreUnavailable."""
    if isinstance(store, ClusterConnection):
        waits = waits_of(durability)
        trip = store.receive(store.send(commands, changes=len(commands), waits=waits, loads=LOADS))
        replies, confirmed = trip.replies, trip.confirmed
    else:
        replies = execute(store, commands, durability.waits)
        confirmed = [replies[-1]] * len(commands)
        del replies[len(commands) :]
    missing = None
    if durability.waits:
        of_made = (
            each
            for reply, each in zip(replies, confirmed, strict=True)
            if not isinstance(reply, ResponseError)
        )
        missing = next(filter(None, map(durability.shortfall, of_made)), None)
    return Made(replies, missing)


def change(store: Store, command: Command, durability: Durability) -> Reply:
    """The reply to one. Raises NotDurable, when it was made and too few copies confirmed it, and
    StoreUnavailable."""
    [reply], missing = make(store, [command], durability)
    if missing is not None:
        raise missing
    return reply


def waits_of(durability: Durability) -> Waits:
    """What goes behind changes to the nodes of a cluster."""
    return Waits(durability.waits, durability.copies - 1, durability._replace(timeout_ms=1).waits)
