"""What a rater tells balancers of itself, for people who look at them: nothing of it decides anything.

It goes in a message of its own, beside the heartbeat, so that each end may be older than the other: who does
not know the message drops it, and fields that are missing or new do no harm.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Final

import msgspec

MAX_TENANTS: Final = 200
"""Whose tariffs are told of, so that the message stays small; the first ones by name."""


MAX_NODES: Final = 200
"""Of a cluster of stores that are told of, those that do not answer first."""


class NodeHealth(msgspec.Struct, frozen=True):
    """A primary of a cluster of stores, as one rater sees it."""

    address: str = ""
    ok: bool = False
    used_memory: int = 0
    max_memory: int = 0
    """Bytes; 0 is not known, as of the store."""
    replicas: int = 0
    """That are connected to it."""


class StoreHealth(msgspec.Struct, frozen=True):
    """The store, as one rater sees it. 0 is not known.

    Of a cluster: whether any node answers, the memory of all that do, the longest round trip.
    """

    ok: bool = False
    url: str = ""
    """Without user and password."""
    used_memory: int = 0
    max_memory: int = 0
    """Bytes; 0 is no limit, too."""
    round_trip_us: int = 0
    nodes: tuple[NodeHealth, ...] = ()
    """Of a cluster; no other store has any."""


class About(msgspec.Struct, frozen=True):
    version: str = ""
    busy: float = 0.0
    """The share of the time since the last message in which it worked."""
    tariffs: dict[str, int] = {}
    """The version in use, by tenant."""
    store: StoreHealth | None = None


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(About).decode


def encode(about: About) -> bytes:
    return _encode(about)


def decode(text: bytes) -> About:
    """Raises ValueError."""
    try:
        return _decode(text)
    except Exception as error:  # msgspec raises several unrelated types on bad input
        raise ValueError(f"a rater's word about itself that is none: {error}") from None


@cache
def own_version() -> str:
    try:
        return version_of("ratel")
    except PackageNotFoundError:  # run from its source, not installed
        return ""
