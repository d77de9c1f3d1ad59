"""What a front counts about its requests, and the last minutes of it, second by second. Pure: told the time.

Every answer is counted by method, outcome and how long it took: a few list and dict operations, some
tenths of a microsecond. Once a second `tick` sets down what that second brought, for charts and for the
figures of the last ten seconds. `balancer.metrics` makes Prometheus' text of the totals, `balancer.status`
what the status page and `ratel status` show.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from balancer.actions import Answer
from common.errors import BY_CODE
from common.histogram import SLOTS, Histogram, index_of, percentiles_us

HISTORY_S: Final = 300
"""Seconds that are kept: what a chart on a page shows."""
WINDOW_S: Final = 10
"""Current figures are means over so many seconds."""
SHARES: Final = (0.5, 0.9, 0.99)


class MethodMeter(Histogram):
    """The answers of one method."""

    __slots__ = ("outcomes", "replays")

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: dict[int, int] = {}
        """By code; 0 is a result."""
        self.replays = 0


class Second(NamedTuple):
    """What one second brought, of one method."""

    answers: int
    errors: int
    """Answers that were the service's fault, and refusals for overload: those that somebody should look at."""
    counts: tuple[int, ...]


NOTHING: Final = Second(0, 0, (0,) * SLOTS)
SERVICE_CODES: Final = frozenset(code for code, cls in BY_CODE.items() if cls.http_status >= 500)


class Telemetry:
    def __init__(self) -> None:
        self.methods: dict[str, MethodMeter] = {}
        self.turned_away = 0
        """Requests refused for overload before they were read."""
        self.work_messages = 0
        self.work_items = 0
        self.history: deque[dict[str, Second]] = deque(maxlen=HISTORY_S)
        """By method, the oldest second first; methods without answers are left out."""
        self._before: dict[str, tuple[list[int], int, int]] = {}

    def answered(self, answers: Iterable[Answer], now_us: int, deadline_us: int) -> None:
        """Count answers; `deadline_us` is the time from a request's arrival to its deadline."""
        methods = self.methods
        arrived_us = now_us + deadline_us
        for request, code, _, replayed in answers:
            meter = methods.get(request.method)
            if meter is None:
                meter = methods[request.method] = MethodMeter()
            # A request that was refused at once has no deadline yet: it took no time.
            took_us = arrived_us - request.deadline_us if request.deadline_us else 0
            meter.counts[index_of(took_us)] += 1
            meter.sum_us += took_us
            meter.outcomes[code] = meter.outcomes.get(code, 0) + 1
            if replayed:
                meter.replays += 1

    def sent(self, items: int) -> None:
        """A message with so many requests went to a rater."""
        self.work_messages += 1
        self.work_items += items

    def tick(self) -> None:
        """Call it once a second."""
        second: dict[str, Second] = {}
        for name, meter in self.methods.items():
            counts, total, faults = self._before.get(name, ([0] * SLOTS, 0, 0))
            now_total = sum(meter.outcomes.values())
            now_faults = sum(count for code, count in meter.outcomes.items() if code in SERVICE_CODES)
            if now_total != total:
                second[name] = Second(
                    now_total - total,
                    now_faults - faults,
                    tuple(now - then for now, then in zip(meter.counts, counts, strict=True)),
                )
                self._before[name] = (meter.counts.copy(), now_total, now_faults)
        self.history.append(second)

    def recent(self, seconds: int = WINDOW_S) -> dict[str, Second]:
        """The last so many seconds together, by method."""
        found: dict[str, Second] = {}
        for second in list(self.history)[-seconds:]:
            for name, each in second.items():
                found[name] = together(found.get(name, NOTHING), each)
        return found

    def span_s(self, seconds: int = WINDOW_S) -> int:
        """How many seconds `recent` is about: fewer after a start; at least one."""
        return max(1, min(seconds, len(self.history)))


def together(first: Second, second: Second) -> Second:
    counts = tuple(a + b for a, b in zip(first.counts, second.counts, strict=True))
    return Second(first.answers + second.answers, first.errors + second.errors, counts)


def latency_us(second: Second) -> list[int]:
    """The percentiles of `SHARES`."""
    return percentiles_us(second.counts, SHARES)
