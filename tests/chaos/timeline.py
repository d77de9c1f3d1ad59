"""Where the store's clock stood, by the true one that the clients' books are kept by.

The store writes its own time into the journal. Where a fault moves that clock, the reckoning can't compare
the two times as they are: it asks which of the store's times are possible in a stretch of true time. While
the clock is never moved these are just that stretch, so nothing is let pass that would not be otherwise.
"""

from __future__ import annotations

from typing import NamedTuple


class Position(NamedTuple):
    """The clock stood here at no other moments than these, perhaps not at all of them."""

    from_us: int
    to_us: int
    ahead_us: int


class Timeline:
    def __init__(self) -> None:
        self._positions = [Position(-(1 << 62), 1 << 62, 0)]

    def moved(self, before_us: int, after_us: int, ahead_us: int) -> None:
        """The clock was moved at some moment between these two."""
        last = self._positions.pop()
        self._positions.append(last._replace(to_us=after_us))
        self._positions.append(Position(before_us, 1 << 62, ahead_us))

    def possible(self, store_us: int, from_us: int, to_us: int) -> bool:
        """Whether what was written between these two may have that time."""
        least_us = min(
            max(from_us, position.from_us) + position.ahead_us
            for position in self._positions
            if position.from_us <= to_us and from_us <= position.to_us
        )
        return least_us <= store_us <= self.latest(to_us)

    def latest(self, until_us: int) -> int:
        """The highest time of what was written until then: after a clock was set back, a journal goes on
        from its last line's time until the clock has passed it."""
        return max(
            min(until_us, position.to_us) + position.ahead_us
            for position in self._positions
            if position.from_us <= until_us
        )
