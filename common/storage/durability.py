"""How safe a change must be before it is acknowledged: the levels, and the commands that make sure.

They go out behind a batch's changes, on the connection that made them: WAIT and WAITAOF wait
for their own connection's last write. So whatever is to be acknowledged must have written something
on it, a replayed outcome too (`rater/lua/_begin.lua`).
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, NamedTuple

from common.errors import NotDurable

DEFAULT_REPLICAS: Final = 1
DEFAULT_TIMEOUT_MS: Final = 500
MAX_TIMEOUT_MS: Final = 700
"""A rater in this wait sends no heartbeats, and may wait twice for one batch: that must stay below their
patience of 1.5 s. Once must stay below the time after which the store is taken to be gone."""


class Level(Enum):
    EVERYSEC = "everysec"
    """Done on the primary; its own setting decides when that is on the disk."""
    ALWAYS = "always"
    """On the primary's disk."""
    REPLICATED = "replicated"
    """On the primary and in the memory of replicas."""
    REPLICATED_ALWAYS = "replicated-always"
    """On the disks of the primary and of replicas."""


LEVELS: Final = tuple(level.value for level in Level)


class Durability(NamedTuple):
    level: Level = Level.EVERYSEC
    replicas: int = DEFAULT_REPLICAS
    timeout_ms: int = DEFAULT_TIMEOUT_MS

    @property
    def copies(self) -> int:
        """How many must have confirmed, the primary among them."""
        return 1 + self.replicas if self.level in (Level.REPLICATED, Level.REPLICATED_ALWAYS) else 1

    @property
    def waits(self) -> tuple[tuple[bytes | int, ...], ...]:
        """The commands, of which the last one's reply counts.

        A replica reports what is on its disk when it is asked, and else once a second. WAITAOF asks while
        the replica has yet to write; by the time that WAIT has its reply, it has written, and WAITAOF asks
        again. By itself it took 1 s for a lone debit, and takes 10 ms so.
        """
        match self.level:
            case Level.EVERYSEC:
                return ()
            case Level.ALWAYS:
                return ((b"WAITAOF", 1, 0, self.timeout_ms),)
            case Level.REPLICATED:
                return ((b"WAIT", self.replicas, self.timeout_ms),)
            case Level.REPLICATED_ALWAYS:
                half_ms = max(1, self.timeout_ms // 2)
                return (b"WAIT", self.replicas, half_ms), (b"WAITAOF", 1, self.replicas, half_ms)

    def confirmed(self, reply: Any) -> int:
        """How many of `copies` have confirmed, by the last command's reply, which may be an error."""
        if self.level is Level.REPLICATED:
            return 1 + min(reply, self.replicas) if isinstance(reply, int) else 1
        if not isinstance(reply, list):
            return 0
        local, replicas = reply
        return int(local) + min(int(replicas), self.copies - 1)

    def shortfall(self, reply: Any) -> NotDurable | None:
        """The error when fewer than `copies` have confirmed, by the same reply."""
        confirmed = self.confirmed(reply)
        if confirmed >= self.copies:
            return None
        return NotDurable(confirmed=confirmed, copies=self.copies, timeout_ms=self.timeout_ms)


DEFAULT_DURABILITY: Final = Durability()
