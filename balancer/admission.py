"""How many requests may be here at a time, so that none of them waits for long: pure, no clock.

Without overload there is no bound but `max_queued`. Under overload the room is what the raters
answer within `max_wait`: then whatever is admitted is answered in about that time, and the rest is
refused at once. The room counts requests wherever they are, waiting or at a rater, since a rater's
own backlog may be the most of the wait. It is a number, so that admitting costs one comparison.

It is *overload* when from one look to the next there were requests here, and even the newest of all that
were answered between them had been here for a quarter of `max_wait`: the raters were busy all the time, and
their rate is what they can do. One slow rater or one slow request is none: others are answered sooner. The
rate is the mean of the last few looks in which that was so. Other looks say nothing about what raters can
do: with a room that is too small, they would measure that room, and make it smaller still. If requests are
refused in such a look all the same, raters could have done more, and the room grows. Looks without replies
do not count either: after a pause of the store, say, raters are as fast as before.

When no rater takes work there is nothing to measure: requests wait for one, up to their deadlines. Nor
are new ones refused at once when one takes work again, only because others have waited for it: for
one deadline from then on, half of the deadline may be waited.
"""

from __future__ import annotations

from collections import deque
from typing import Final

LOOK_US: Final = 200_000
"""From look to look, or half of `max_wait` where that is less: some batches of each rater."""

LOOKS: Final = 5
"""Their mean counts. A second: some dozen batches, and a lasting slowdown is noticed."""

GROWTH: Final = 1.25
"""What raters that idle are trusted with more, from look to look: ten times the room in two seconds."""

MIN_ROOM: Final = 16
"""However slow raters are: by the replies to these it is noticed that they are fast again."""


class Admission:
    """Tell it of replies and of the passing of time; ask it for the `room`."""

    def __init__(self, max_queued: int, max_wait_us: int, deadline_us: int) -> None:
        self.room = max_queued
        """With so many requests here, one more is refused."""
        self.overloaded = False
        self.refused = False
        """Set it when there was no room for a request: as long as there are such, it is no time to relax."""
        self._max_queued = max_queued
        self._patience_us = deadline_us // 2
        """Some time must be left for the work itself, and for another attempt."""
        self._max_wait_us = min(max_wait_us, self._patience_us)
        self._look_us = min(LOOK_US, self._max_wait_us // 2)
        self._recovery_us = deadline_us
        self._recovers_until_us: int | None = None
        """None while no rater takes work."""
        self._looked_us = 0
        self._present = 0
        """At the last look."""
        self._replies = 0
        self._least_age_us: int | None = None
        self._rates_per_s: deque[float] = deque(maxlen=LOOKS)
        """In the last looks in which raters were busy all the time."""

    def replied(self, count: int, least_age_us: int) -> None:
        """That many requests were answered by one message, the newest had been here for so long."""
        self._replies += count
        if self._least_age_us is None or least_age_us < self._least_age_us:
            self._least_age_us = least_age_us

    def tick(self, now_us: int, present: int, *, takes_work: bool) -> None:
        """`present` requests are here; `takes_work` if some rater does."""
        if not takes_work:
            self._recovers_until_us = None
            self.overloaded = False
            self._rates_per_s.clear()
        elif self._recovers_until_us is None:
            self._recovers_until_us = now_us + self._recovery_us
        elif now_us - self._looked_us < self._look_us:
            return
        else:
            self._look(now_us, present)
        self._looked_us = now_us
        self._present = present
        self._replies = 0
        self._least_age_us = None
        self.refused = False
        self.room = self._room(now_us) if self.overloaded else self._max_queued

    def _look(self, now_us: int, present: int) -> None:
        rates = self._rates_per_s
        if self._least_age_us is None:
            self.overloaded = self.overloaded and present > 0
        elif self._least_age_us > self._max_wait_us // 4 and min(present, self._present) > 0:
            self.overloaded = True
            rates.append(self._replies * 1_000_000 / (now_us - self._looked_us))
        elif not self.refused:
            self.overloaded = False
        elif rates:
            trusted = sum(rates) / len(rates) * GROWTH
            rates.clear()
            rates.append(trusted)

    def _room(self, now_us: int) -> int:
        recovers = self._recovers_until_us is not None and now_us < self._recovers_until_us
        wait_us = self._patience_us if recovers else self._max_wait_us
        rates = self._rates_per_s
        room = sum(rates) * wait_us / (1_000_000 * max(len(rates), 1))
        return min(max(int(room), MIN_ROOM), self._max_queued)
