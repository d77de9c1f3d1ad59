"""Which interval wins when: the calendar of an activation period, and the local time of a zone.

A `Zone` turns instants into local time, one stretch of constant UTC offset after another. A
`Schedule` says for a local day which interval wins from when to when. `walk` runs through both and
yields the pieces of a stretch of time that have one winner each; its work is proportional to the
pieces, not to the days, since the last piece of a day reaches over all flat days that follow.

Most tariffs know no months, and most calls meet no clock change: then the pieces are read off one
table of two weeks, which holds every call of up to a week in one run. What does not fit goes
day by day (`walk_days`), with the same result.

Local time is read at each instant by itself: an hour that a clock change repeats is priced twice
by the same intervals, an hour that it skips never occurs. Source: docs/rating.md, "Time zones".

Both classes keep what they have worked out, within bounds; that changes no answer, only its cost.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from heapq import heappop, heappush
from itertools import pairwise
from typing import Final
from zoneinfo import ZoneInfo

from common.times import DAY_US, MAX_INSTANT_US, MIN_INSTANT_US, SECOND_US
from rater.model import Interval
from rater.rating.intervals import CompiledInterval

Winner = CompiledInterval | None
"""None: no interval applies."""
Piece = tuple[int, int, int, Winner]
"""Start and end instant, activation time of the period in effect, and who wins throughout."""
DayPlan = tuple[tuple[int, ...], tuple[Winner, ...]]
"""The ends of a day's pieces in µs from local midnight, ascending, and their winners. The last end
is at least 24 h: if the whole day is one piece, the end of the run of days that are the same."""

OffsetTable = tuple[tuple[int, ...], tuple[tuple[int, int], ...]]
"""The ends of stretches of one UTC offset, ascending; for each its offset and its end."""

WEEK_US: Final = 7 * DAY_US
MAX_CACHED_DAYS: Final = 1024
"""Days kept by a schedule: calls happen around now; a year of re-rating fits."""
MAX_RUN_DAYS: Final = 32
"""How far a flat day looks ahead: past the longest call that is rated by default (31 days)."""
MAX_CACHED_BLOCKS: Final = 256
"""Offset tables kept by a zone: more than twenty years."""
MAX_ZONES: Final = 1024
"""Zones kept in memory; the IANA database has about 600 names."""

_BLOCK_US: Final = 32 * DAY_US
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL: Final = _EPOCH.toordinal()
_CYCLE_DAYS: Final = 146_097
"""The Gregorian calendar repeats after 400 years: same month, day and week day. So the calendar of
any day can be read off within the years that `date` knows."""


class Zone:
    """A time zone's UTC offsets."""

    __slots__ = ("_blocks", "_info", "_latest", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._info = ZoneInfo(name)
        self._blocks: dict[int, OffsetTable] = {}
        self._latest = (0, 0, (0, 0))
        """Start and end of the stretch that was asked for last, and the answer for it: calls are made now."""
        if (fixed := self._info.utcoffset(None)) is not None:
            end_us = MAX_INSTANT_US - DAY_US
            self._latest = (MIN_INSTANT_US + DAY_US, end_us, (fixed // timedelta(microseconds=1), end_us))

    def offset_at(self, instant_us: int) -> tuple[int, int]:
        """(offset, until): local time is the instant plus the offset, at least until then."""
        start_us, end_us, latest = self._latest
        if start_us <= instant_us < end_us:
            return latest
        number = instant_us // _BLOCK_US
        block = self._blocks.get(number)
        if block is None:
            if len(self._blocks) >= MAX_CACHED_BLOCKS:
                self._blocks.clear()
            block = self._blocks[number] = self._make_block(number * _BLOCK_US)
        ends, stretches = block
        index = bisect_right(ends, instant_us)
        found = stretches[index]
        if self._info.utcoffset(None) is None:  # else the one stretch of nearly all time stays
            start_us = ends[index - 1] if index else number * _BLOCK_US
            self._latest = (start_us, ends[index], found)
        return found

    def _make_block(self, start_us: int) -> OffsetTable:
        """Offsets are compared from day to day, and each change is found to the second.

        No zone has ever changed its offset twice within six days.
        """
        end_us = start_us + _BLOCK_US
        offset_us = self._offset(start_us)
        stretches: list[tuple[int, int]] = []
        for low_us in range(start_us, end_us, DAY_US):
            next_us = self._offset(low_us + DAY_US)
            if next_us != offset_us:
                stretches.append((offset_us, self._find_change(low_us, low_us + DAY_US)))
                offset_us = next_us
        if not stretches or stretches[-1][1] < end_us:
            stretches.append((offset_us, end_us))
        return tuple(until_us for _, until_us in stretches), tuple(stretches)

    def _find_change(self, low_us: int, high_us: int) -> int:
        before = self._offset(low_us)
        low, high = low_us // SECOND_US, high_us // SECOND_US
        while high - low > 1:
            middle = (low + high) // 2
            if self._offset(middle * SECOND_US) == before:
                low = middle
            else:
                high = middle
        return high * SECOND_US

    def _offset(self, instant_us: int) -> int:
        # A day's margin, so that the local time is within the years that datetime knows.
        clamped_us = min(max(instant_us, MIN_INSTANT_US + DAY_US), MAX_INSTANT_US - DAY_US)
        moment = _EPOCH + timedelta(microseconds=clamped_us)
        local = moment.astimezone(self._info)
        return (local.replace(tzinfo=None) - moment.replace(tzinfo=None)) // timedelta(microseconds=1)


@lru_cache(MAX_ZONES)
def load_zone(name: str) -> Zone:
    """The zone of an IANA name. Raises ValueError when there is none."""
    try:
        return Zone(name)
    except (KeyError, ValueError, OSError):  # which one depends on what the name looks like
        raise ValueError(f"expected an IANA time zone such as Europe/Bucharest, not {name!r}") from None


class _Days(dict[int, DayPlan]):
    """Plans by day, made when they are first looked up."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[int], DayPlan]) -> None:
        self._make = make

    def __missing__(self, day: int) -> DayPlan:
        if len(self) >= MAX_CACHED_DAYS:
            self.clear()
        plan = self[day] = self._make(day)
        return plan


def _no_plan(_day: int) -> DayPlan:
    raise LookupError("the schedule was freed")


_GONE: Final = _Days(_no_plan)


class Schedule:
    """The winners of one period's intervals, by local day."""

    __slots__ = (
        "_by_kind",
        "_uses",
        "days",
        "has_increments",
        "intervals",
        "only_winner",
        "weeks",
        "weeks_repeat",
    )

    intervals: tuple[CompiledInterval, ...]
    days: _Days
    """The plan of a local day, numbered from 1970-01-01: look any day up."""
    only_winner: CompiledInterval | None
    """The interval that always wins, when there is one."""
    has_increments: bool
    weeks_repeat: bool
    """No interval asks for a month or a month day: all weeks are the same."""
    weeks: DayPlan | None
    """Then the pieces of two weeks from a Thursday on, as 1970-01-01 was; None until `make_weeks`."""

    def __init__(self, intervals: tuple[CompiledInterval, ...]) -> None:
        self.intervals = intervals
        self.days = _Days(self._make_day)
        self._by_kind: dict[tuple[int, int, int], DayPlan] = {}
        definitions = [compiled.interval for compiled in intervals]
        self._uses = (
            any(each.month for each in definitions),
            any(each.month_day for each in definitions),
            any(each.week_days for each in definitions),
        )
        first = min(intervals, key=lambda compiled: compiled.rank, default=None)
        always = first is not None and _is_unrestricted(first)
        self.only_winner = first if always else None
        self.has_increments = any(compiled.increment_us for compiled in intervals)
        self.weeks = None
        self.weeks_repeat = not (self._uses[0] or self._uses[1])

    def make_weeks(self) -> DayPlan:
        """`weeks`, once it is needed. Only where weeks repeat."""
        assert self.weeks_repeat
        weeks = self.weeks = self._plan_weeks()
        return weeks

    def free(self) -> None:
        """Let go of the days: they hold the schedule as it holds them. Nothing may be looked up any more."""
        self.days = _GONE

    def _plan_weeks(self) -> DayPlan:
        ends: list[int] = []
        winners: list[Winner] = []
        for day in range(14):
            for end_us, winner in zip(*self._plan(day), strict=True):
                if winners and winners[-1] is winner:
                    ends[-1] = day * DAY_US + end_us
                else:
                    ends.append(day * DAY_US + end_us)
                    winners.append(winner)
        return tuple(ends), tuple(winners)

    def _make_day(self, day: int) -> DayPlan:
        plan = self._plan(day)
        if len(plan[0]) > 1:
            return plan
        run = 1
        while run < MAX_RUN_DAYS and self._plan(day + run)[1] == plan[1]:
            run += 1
        return (run * DAY_US,), plan[1]

    def _plan(self, day: int) -> DayPlan:
        month, month_day, week_day = calendar_day(day)
        uses_month, uses_month_day, uses_week_day = self._uses
        kind = (
            month if uses_month else 0,
            month_day if uses_month_day else 0,
            week_day if uses_week_day else 0,
        )
        plan = self._by_kind.get(kind)
        if plan is None:  # at most 12 × 31 × 7 kinds
            applying = [each for each in self.intervals if applies_on(each.interval, kind)]
            plan = self._by_kind[kind] = _plan_day(applying)
        return plan


def _is_unrestricted(compiled: CompiledInterval) -> bool:
    interval = compiled.interval
    any_day = not (interval.month or interval.month_day or interval.week_days)
    return any_day and compiled.start_us <= 0 and compiled.end_us >= DAY_US


def calendar_day(day: int) -> tuple[int, int, int]:
    """Month, month day and week day (0 is Sunday) of a day, numbered from 1970-01-01."""
    when = date.fromordinal(1 + (_EPOCH_ORDINAL + day - 1) % _CYCLE_DAYS)
    return when.month, when.day, when.isoweekday() % 7


def applies_on(interval: Interval, kind: tuple[int, int, int]) -> bool:
    """Whether it holds on such a day, as `calendar_day` has them; a 0 in the kind stands for a part that no
    interval asks for."""
    month, month_day, week_day = kind
    return (
        interval.month in (0, month)
        and interval.month_day in (0, month_day)
        and (not interval.week_days or week_day in interval.week_days)
    )


def _plan_day(applying: list[CompiledInterval]) -> DayPlan:
    """Sweep a day from border to border, the best of the running intervals on top of a heap."""
    arriving = sorted(applying, key=lambda each: each.start_us, reverse=True)
    borders = {0, DAY_US}
    for each in applying:
        borders |= {each.start_us, each.end_us}
    ends: list[int] = []
    winners: list[Winner] = []
    running: list[tuple[int, CompiledInterval]] = []
    for begin_us, end_us in pairwise(sorted(borders)):
        while arriving and arriving[-1].start_us <= begin_us:
            starting = arriving.pop()
            heappush(running, (starting.rank, starting))
        while running and running[0][1].end_us <= begin_us:
            heappop(running)
        winner = running[0][1] if running else None
        if winners and winners[-1] is winner:
            ends[-1] = end_us
        else:
            ends.append(end_us)
            winners.append(winner)
    return tuple(ends), tuple(winners)


def sole_interval(schedule: Schedule, zone: Zone, start_us: int, end_us: int) -> CompiledInterval | None:
    """The interval that wins in all of [start, end), for the calls in which it can be read off a table.

    None of the others, and where no interval applies: `walk` tells.
    """
    if schedule.only_winner is not None:
        return schedule.only_winner
    if not schedule.weeks_repeat:
        return None
    offset_us, until_us = zone.offset_at(start_us)
    if end_us > until_us:
        return None
    ends, winners = schedule.weeks or schedule.make_weeks()
    at_us = (start_us + offset_us) % WEEK_US
    index = bisect_right(ends, at_us)
    return winners[index] if at_us + end_us - start_us <= ends[index] else None


def walk(schedule: Schedule, zone: Zone, activation_us: int, start_us: int, end_us: int) -> list[Piece]:
    """The pieces of [start, end) with one winner each, in order; neighbours have different winners."""
    if schedule.only_winner is not None:
        return [(start_us, end_us, activation_us, schedule.only_winner)]
    if not schedule.weeks_repeat or end_us - start_us > WEEK_US:
        return walk_days(schedule, zone, activation_us, start_us, end_us)
    offset_us, until_us = zone.offset_at(start_us)
    if end_us > until_us:
        return walk_days(schedule, zone, activation_us, start_us, end_us)
    ends, winners = schedule.weeks or schedule.make_weeks()
    at_us = (start_us + offset_us) % WEEK_US
    index = bisect_right(ends, at_us)
    shift_us = start_us - at_us  # from a place in the table to the instant
    border_us = ends[index] + shift_us
    if end_us <= border_us:
        return [(start_us, end_us, activation_us, winners[index])]
    pieces: list[Piece] = []
    while border_us < end_us:
        pieces.append((start_us, border_us, activation_us, winners[index]))
        start_us = border_us
        index += 1
        border_us = ends[index] + shift_us
    pieces.append((start_us, end_us, activation_us, winners[index]))
    return pieces


def walk_days(schedule: Schedule, zone: Zone, activation_us: int, start_us: int, end_us: int) -> list[Piece]:
    """The same for any stretch of time, whatever happens in it."""
    pieces: list[Piece] = []
    piece_start_us = now_us = start_us
    current: Winner = None
    while now_us < end_us:
        offset_us, until_us = zone.offset_at(now_us)
        local_us = now_us + offset_us
        now_us = until_us if until_us < end_us else end_us
        stop_us = now_us + offset_us
        while local_us < stop_us:
            day = local_us // DAY_US
            midnight_us = day * DAY_US
            ends, winners = schedule.days[day]
            index = bisect_right(ends, local_us - midnight_us)
            while local_us < stop_us and index < len(ends):
                winner = winners[index]
                if winner is not current:
                    border_us = local_us - offset_us
                    if border_us > piece_start_us:
                        pieces.append((piece_start_us, border_us, activation_us, current))
                        piece_start_us = border_us
                    current = winner
                local_us = midnight_us + ends[index]
                index += 1
    pieces.append((piece_start_us, end_us, activation_us, current))
    return pieces
