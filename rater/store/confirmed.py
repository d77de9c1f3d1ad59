"""A change that an operator's command makes at the store itself: as safe before it is told as raters' are.

Who is told `blocked`, or what credit is left, may rely on it after a failover at the replicated levels.
"""

from __future__ import annotations

from redis.exceptions import ResponseError

from common.storage.cluster import ClusterConnection
from common.storage.cluster_trip import Waits
from common.storage.durability import Durability
from common.storage.store import Command, Reply
from common.storage.stores import Store
from rater.store.scripts import LOADS, execute


def change(store: Store, command: Command, durability: Durability) -> Reply:
    """The reply to a script's call. Raises NotDurable, when it was made and too few copies confirmed it, and
    StoreUnavailable."""
    if isinstance(store, ClusterConnection):
        trip = store.receive(store.send([command], changes=1, waits=waits_of(durability), loads=LOADS))
        [reply], [waited] = trip.replies, trip.confirmed
    else:
        [reply, *waiting] = execute(store, [command], durability.waits)
        waited = waiting[-1] if waiting else None
    if durability.waits and not isinstance(reply, ResponseError):
        missing = durability.shortfall(waited)
        if missing is not None:
            raise missing
    return reply


def waits_of(durability: Durability) -> Waits:
    """What goes behind changes to the nodes of a cluster."""
    return Waits(durability.waits, durability.copies - 1, durability._replace(timeout_ms=1).waits)
