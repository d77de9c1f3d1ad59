"""How many requests may be here at a time, so that none of them waits for long: pure, no clock.

The room is what the raters answer in the time that may be waited: then whatever is admitted is answered in
about that time, and the rest is refused at once. It counts requests wherever they are, waiting or at a
rater, since a rater's own backlog may be the most of the wait. It is a number, so that admitting costs one
comparison. Never is it more than `max_queued`.

What raters can do they say themselves: how long they worked on what they answer. So it is known however
little they are asked, and however busy this process is: a front that is late to hand out work would else
take raters that idle for slow ones, make the room smaller, and let them idle more. The rate is the mean of
the last few looks.

May be waited: half of the deadline, as some time must be left for the work itself and for another attempt;
under overload `max_wait`. It is *overload* when from one look to the next there were requests here, and even
the newest of all that were answered between them had been here for a quarter of `max_wait`. One slow rater
or one slow request is none: others are answered sooner.

Raters that do not say how long they worked are those of a gateway: balancers, which work on many things at
a time. There is no bound but `max_queued` then until there is overload; then raters are busy all the time,
and their rate is what they answer. Looks without overload say nothing about what such raters can do: with a
room that is too small, they would measure that room, and make it smaller still. If requests are refused
in such a look all the same, raters could have done more, and the room grows. Looks without replies do not
count either: after a pause of the store, say, raters are as fast as before.

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
        """In the last looks: what raters say, or what they answered while they were busy all the time."""

    def replied(self, count: int, least_age_us: int) -> None:
        """That many requests were answered by one message, the newest had been here for so long."""
        self._replies += count
        if self._least_age_us is None or least_age_us < self._least_age_us:
            self._least_age_us = least_age_us

    def is_due(self, now_us: int) -> bool:
        """Whether it is time for a look: from time to time, at once while no rater is known to work."""
        return self._recovers_until_us is None or now_us - self._looked_us >= self._look_us

    def look(self, now_us: int, present: int, speed_per_s: float, *, takes_work: bool) -> None:
        """`present` requests are here; `takes_work` if a rater does; `speed_per_s` is what they say, or 0."""
        if not takes_work:
            self._recovers_until_us = None
            self.overloaded = False
            self._rates_per_s.clear()
        elif self._recovers_until_us is None:
            self._recovers_until_us = now_us + self._recovery_us
        else:
            self._learn(now_us, present, speed_per_s)
        self._looked_us = now_us
        self._present = present
        self._replies = 0
        self._least_age_us = None
        self.refused = False
        self.room = self._room(now_us, is_told=speed_per_s > 0)

    def _learn(self, now_us: int, present: int, speed_per_s: float) -> None:
        rates = self._rates_per_s
        late = self._least_age_us is not None and self._least_age_us > self._max_wait_us // 4
        if self._least_age_us is None:
            self.overloaded = self.overloaded and present > 0
        elif late and min(present, self._present) > 0:
            self.overloaded = True
            if not speed_per_s:
                rates.append(self._replies * 1_000_000 / (now_us - self._looked_us))
        elif not self.refused:
            self.overloaded = False
        elif rates and not speed_per_s:
            trusted = sum(rates) / len(rates) * GROWTH
            rates.clear()
            rates.append(trusted)
        if speed_per_s:
            rates.append(speed_per_s)

    def _room(self, now_us: int, *, is_told: bool) -> int:
        rates = self._rates_per_s
        if not rates or not (self.overloaded or is_told):
            return self._max_queued
        recovers = self._recovers_until_us is not None and now_us < self._recovers_until_us
        wait_us = self._patience_us if recovers or not self.overloaded else self._max_wait_us
        room = sum(rates) * wait_us / (1_000_000 * len(rates))
        return min(max(int(room), MIN_ROOM), self._max_queued)
