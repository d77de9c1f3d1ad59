"""The clock that deadlines, heartbeats and pauses are measured with: it never steps."""

from __future__ import annotations

import time
from typing import Final

DIFFERENCE_PERIOD_US: Final = 5_000_000
"""Ten heartbeats: enough to have one that was not held up, and after two periods an error is over."""


def monotonic_us() -> int:
    """Microseconds since some moment; only differences mean something, and only in one process."""
    return time.monotonic_ns() // 1000


class ClockDifference:
    """What to add to another process's monotonic clock to get ours.

    It is the least (our time of receipt − its time of sending) seen lately: the least is the one with the
    shortest way, so a message that was held up, or a process that was stopped, does not make old work look
    young. "Lately" is this and the last period, because monotonic clocks of two hosts drift apart, and one of
    them stands still while its machine is paused. Clock steps do not matter.
    """

    def __init__(self, sent_us: int, now_us: int) -> None:
        self._least_us = self._least_before_us = now_us - sent_us
        self._period_ends_us = now_us + DIFFERENCE_PERIOD_US

    @property
    def us(self) -> int:
        return min(self._least_us, self._least_before_us)

    def see(self, sent_us: int, now_us: int) -> None:
        """A message that was sent at `sent_us` by the other clock arrived at `now_us` by ours."""
        if now_us < self._period_ends_us:
            self._least_us = min(self._least_us, now_us - sent_us)
        else:
            self._least_before_us, self._least_us = self._least_us, now_us - sent_us
            self._period_ends_us = now_us + DIFFERENCE_PERIOD_US
