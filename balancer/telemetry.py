"""What a front counts about its requests, and its last minutes, second by second. Pure: it is told the time.

Every answer is counted by method, outcome and how long it took; where a rater answers many at once, those
that are alike are counted together, some hundredths of a microsecond each. Once a second `tick` sets down
what that second brought, for charts and for the figures of the last ten seconds. `balancer.metrics` makes
Prometheus' text of the totals, `balancer.status` what the status page and `ratel status` show.

What is refused at once took no time, and would make an overloaded front look fast: it counts as an answer
with its outcome, and in no latency.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

from balancer.actions import Answer
from common.about import About
from common.errors import BY_CODE, Overloaded
from common.histogram import SIZE_BUCKETS, SLOTS, index_of, percentiles_us, size_index
from common.methods import BY_NAME
from common.outcomes import OK, OTHER, outcome_name

HISTORY_S: Final = 300
"""Seconds that are kept: what a chart on a page shows."""
WINDOW_S: Final = 10
"""Current figures are means over so many seconds."""
SHARES: Final[tuple[float, ...]] = (0.5, 0.9, 0.99)
SECOND_US: Final = 1_000_000

UNKNOWN_CODE: Final = 1

MAX_NAMES: Final = 256
"""Names of methods that are looked up directly. They are bound to tenants where keys are."""

SERVICE_CODES: Final = frozenset(code for code, cls in BY_CODE.items() if cls.http_status >= 500)
"""Errors that are the service's fault, and refusals for overload: those that somebody should look at."""

_REFUSED: Final = SLOTS


class Totals:
    """The answers of one method so far."""

    __slots__ = ("counts", "failures", "replays", "sum_us")

    def __init__(self) -> None:
        self.counts = [0] * (SLOTS + 1)
        """As in `common.histogram`; and in the last one those that were refused at once."""
        self.sum_us = 0
        self.failures: dict[int, int] = {}
        """By code."""
        self.replays = 0

    @property
    def answers(self) -> int:
        return sum(self.counts)

    def outcomes(self) -> dict[str, int]:
        """By name; results are "ok"."""
        found = {OK: self.answers - sum(self.failures.values())}
        for code, count in list(self.failures.items()):  # a scrape reads it from another thread
            found[outcome_name(code)] = count
        return found

    def faults(self) -> int:
        return sum(count for code, count in self.failures.items() if code in SERVICE_CODES)


class Second(NamedTuple):
    """What some time brought, of one method."""

    answers: int
    errors: int
    """Of `SERVICE_CODES`."""
    counts: tuple[int, ...]
    """How long those took that were not refused at once."""


NOTHING: Final = Second(0, 0, tuple([0] * SLOTS))


class Interval(NamedTuple):
    """About a second."""

    span_us: int
    methods: dict[str, Second]
    """Those that were answered."""


class Telemetry:
    def __init__(self, now_us: int) -> None:
        self.started_us = now_us
        self.methods: dict[str, Totals] = {}
        self.turned_away = 0
        """Requests of HTTP refused for overload before they were read; they count as answers, too."""
        self.sizes = [0] * len(SIZE_BUCKETS)
        """Messages to raters, by how many requests were in them."""
        self.items = 0
        self.history: deque[Interval] = deque(maxlen=HISTORY_S)
        self.abouts: dict[bytes, About] = {}
        """What raters said of themselves last, by their ids."""
        self._by_name: dict[str, Totals] = {}
        self._before: dict[str, Second] = {}
        self._ticked_us = now_us

    def answered(self, answers: Iterable[Answer], now_us: int, deadline_us: int) -> None:
        """Count answers; `deadline_us` is the time from a request's arrival to its deadline."""
        totals = _NOBODY
        method = ""
        deadline = -1
        index = took_us = 0
        alike = 0  # answers in a row to one method that came together, and so have the same deadline
        for request, code, _, replayed in answers:
            if request.deadline_us != deadline or request.method is not method:  # the next best to !=
                totals.counts[index] += alike
                totals.sum_us += alike * took_us
                alike = 0
                if request.method is not method:
                    method = request.method
                    totals = self._by_name.get(method) or self._totals(method)
                if request.deadline_us != deadline:
                    deadline = request.deadline_us
                    took_us = now_us + deadline_us - deadline if deadline else 0
                    index = index_of(took_us) if deadline else _REFUSED
            alike += 1
            if code or replayed:
                self._count_apart(totals, code, replayed)
        totals.counts[index] += alike
        totals.sum_us += alike * took_us

    def turned_one_away(self, method: str) -> None:
        self.turned_away += 1
        totals = self._by_name.get(method) or self._totals(method)
        totals.counts[_REFUSED] += 1
        self._count_apart(totals, Overloaded.code, False)

    def sent(self, items: int) -> None:
        """A message with so many requests went to a rater."""
        self.sizes[size_index(items)] += 1
        self.items += items

    def tick(self, now_us: int, raters: Collection[bytes]) -> None:
        """Call it once a second; `raters` are the ids of those that there are."""
        methods: dict[str, Second] = {}
        for name, totals in self.methods.items():
            now = Second(totals.answers, totals.faults(), tuple(totals.counts[:SLOTS]))
            before = self._before.get(name, NOTHING)
            if now.answers != before.answers:
                counts = tuple(a - b for a, b in zip(now.counts, before.counts, strict=True))
                methods[name] = Second(now.answers - before.answers, now.errors - before.errors, counts)
                self._before[name] = now
        self.history.append(Interval(max(now_us - self._ticked_us, 1), methods))
        self._ticked_us = now_us
        for rater in self.abouts.keys() - set(raters):
            del self.abouts[rater]

    def recent(self) -> Interval:
        """The last `WINDOW_S` seconds together, or what there is of them."""
        span_us = 0
        found: dict[str, Second] = {}
        for interval in list(self.history)[-WINDOW_S:]:
            span_us += interval.span_us
            for name, second in interval.methods.items():
                found[name] = together([found[name], second]) if name in found else second
        return Interval(span_us or SECOND_US, found)

    def tariffs(self) -> dict[str, int]:
        """The newest version of each tenant's that some rater has."""
        newest: dict[str, int] = {}
        for about in list(self.abouts.values()):
            for tenant, version in about.tariffs.items():
                newest[tenant] = max(version, newest.get(tenant, 0))
        return dict(sorted(newest.items()))

    def _totals(self, method: str) -> Totals:
        known = BY_NAME.get(method.partition(" ")[0])
        totals = self.methods.setdefault(known.name if known else OTHER, Totals())
        if len(self._by_name) < MAX_NAMES:
            self._by_name[method] = totals
        return totals

    @staticmethod
    def _count_apart(totals: Totals, code: int, replayed: bool) -> None:
        if code:
            code = code if code in BY_CODE else UNKNOWN_CODE
            totals.failures[code] = totals.failures.get(code, 0) + 1
        if replayed:
            totals.replays += 1


_NOBODY: Final = Totals()


def together(seconds: Iterable[Second]) -> Second:
    """The sum, of several methods or of several seconds."""
    answers, errors, counts = 0, 0, NOTHING.counts
    for second in seconds:
        answers += second.answers
        errors += second.errors
        counts = tuple(a + b for a, b in zip(counts, second.counts, strict=True))
    return Second(answers, errors, counts)


def latency_us(second: Second, shares: Sequence[float] = SHARES) -> list[int]:
    return percentiles_us(second.counts, shares)
