"""How often the store failed a rater, by kind: what an operator wants to know of it first.

Counted where a failure is dealt with, once for each connection that broke or stayed silent and once for each
reply that refuses a command.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import redis
from redis.exceptions import ResponseError

from common.errors import StoreUnavailable

TIMEOUT: Final = "timeout"
CONNECTION: Final = "connection_lost"
OTHER: Final = "other"

WORDS: Final = frozenset(
    (
        "ASK",
        "BUSY",
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "MOVED",
        "NOAUTH",
        "NODELOST",
        "NOPERM",
        "NOREPLICAS",
        "NOSCRIPT",
        "OOM",
        "READONLY",
        "TRYAGAIN",
        "WRONGTYPE",
    )
)
"""What the store begins such a reply with; in lower case they are kinds. Whatever else it says is `other`."""

KINDS: Final = (TIMEOUT, CONNECTION, *sorted(word.lower() for word in WORDS), OTHER)


class StoreFailures:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        """By kind, all of them from the beginning."""

    def unavailable(self, error: StoreUnavailable) -> None:
        """No answer, no connection, or one that broke."""
        cause = error.__cause__
        late = isinstance(cause, TimeoutError | BlockingIOError | redis.TimeoutError)
        self.counts[TIMEOUT if late else CONNECTION] += 1

    def refused(self, reply: ResponseError) -> None:
        word = str(reply).partition(" ")[0]
        self.counts[word.lower() if word in WORDS else OTHER] += 1
