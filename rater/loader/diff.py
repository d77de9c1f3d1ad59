"""What two versions of a tariff differ in. Pure.

Rates are the same rate when subject and prefix are, destinations and plans when their ids are. Everything
is counted; of each kind only the first few differences are kept and described, so that two price lists
that have nothing in common cost neither memory nor a scrolled-away terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

import msgspec

from common.money import format_micros, format_nanos
from common.times import format_rfc3339
from rater.loader.report import quote
from rater.model import ActivationPeriod, Destination, Interval, Plan, Rate

T = TypeVar("T")

MAX_FIELDS: Final = 4
"""Changes of one rate, destination or plan that are described; the rest is counted."""


class Difference(NamedTuple):
    name: str
    """Of what is different: a subject and a prefix, or an id."""
    was: str
    """What it was, "" where it was not there."""
    now: str


@dataclass
class Differences:
    """Of one kind of object."""

    limit: int
    added: int = 0
    removed: int = 0
    changed: int = 0
    same: int = 0
    shown: dict[str, list[Difference]] = field(
        default_factory=lambda: {"added": [], "removed": [], "changed": []}
    )

    def note(self, how: str, describe: Callable[..., Difference], *things: object) -> None:
        """`how` is one of the fields that count; `describe` is called with `things` when there is room."""
        setattr(self, how, getattr(self, how) + 1)
        if len(self.shown[how]) < self.limit:
            self.shown[how].append(describe(*things))


def compare_rates(before: Iterable[Rate], after: Iterable[Rate], limit: int) -> Differences:
    """Keeps a number for each rate of `before`, and none of `after`."""
    found = Differences(limit)
    sayings = _Sayings()
    old: dict[str, dict[str, int]] = {}
    for rate in before:
        old.setdefault(rate.subject, {})[rate.prefix] = sayings.number(rate)
    for rate in after:
        number = old.get(rate.subject, {}).pop(rate.prefix, None)
        if number is None:
            found.note("added", _rate_added, rate)
        elif number == sayings.number(rate):
            found.same += 1
        else:
            found.note("changed", _rate_change, sayings.known[number], rate)
    for subject, prefixes in old.items():
        for prefix, number in prefixes.items():
            found.note("removed", _rate_removed, subject, prefix, sayings.known[number])
    return found


def compare_destinations(
    before: Iterable[Destination], after: Iterable[Destination], limit: int
) -> Differences:
    def change(was: Destination, now: Destination) -> Difference:
        old, new = frozenset(was.prefixes), frozenset(now.prefixes)
        more = "".join(
            f", {word} {_some(them)}" for word, them in (("with", new - old), ("without", old - new))
        )
        return Difference(quote(was.id), says(was), says(now) + more)

    def says(each: Destination) -> str:
        return f"{len(each.prefixes)} prefixes"

    return _compare(before, after, lambda each: each.id, says, change, limit)


def compare_plans(before: Iterable[Plan], after: Iterable[Plan], limit: int) -> Differences:
    def change(was: Plan, now: Plan) -> Difference:
        fields = [name for name in was.__struct_fields__ if getattr(was, name) != getattr(now, name)]
        old, new = (
            ", ".join(f"{name} {_value(getattr(plan, name))}" for name in fields) for plan in (was, now)
        )
        return Difference(quote(was.id), old, new)

    return _compare(before, after, lambda each: each.id, lambda plan: "a plan", change, limit)


def _compare(
    before: Iterable[T],
    after: Iterable[T],
    key: Callable[[T], str],
    says: Callable[[T], str],
    change: Callable[[T, T], Difference],
    limit: int,
) -> Differences:
    def added(now: T) -> Difference:
        return Difference(quote(key(now)), "", says(now))

    def removed(was: T) -> Difference:
        return Difference(quote(key(was)), says(was), "")

    found = Differences(limit)
    old = {key(each): each for each in before}
    for now in after:
        was = old.pop(key(now), None)
        if was is None:
            found.note("added", added, now)
        elif was == now:
            found.same += 1
        else:
            found.note("changed", change, was, now)
    for gone in old.values():
        found.note("removed", removed, gone)
    return found


# --- rates ------------------------------------------------------------------------------------------


class _Sayings:
    """Numbers for what rates say, the same one for the same."""

    def __init__(self) -> None:
        self.known: list[Rate] = []
        """One rate for each, which holds the periods and so their identity."""
        self._numbers: dict[tuple[int, str, tuple[ActivationPeriod, ...]], int] = {}
        self._by_identity: dict[tuple[int, str, int], int] = {}
        self._kept: list[tuple[ActivationPeriod, ...]] = []

    def number(self, rate: Rate) -> int:
        identity = rate.tor, rate.timezone, id(rate.periods)
        number = self._by_identity.get(identity)
        if number is None:
            number = self._numbers.setdefault((rate.tor, rate.timezone, rate.periods), len(self.known))
            if number == len(self.known):
                self.known.append(rate)
            self._by_identity[identity] = number
            self._kept.append(rate.periods)
        return number


def _rate(subject: str, prefix: str) -> str:
    return f"{quote(subject)} {quote(prefix)}"


def _rate_added(rate: Rate) -> Difference:
    return Difference(_rate(rate.subject, rate.prefix), "", _says(rate))


def _rate_removed(subject: str, prefix: str, was: Rate) -> Difference:
    return Difference(_rate(subject, prefix), _says(was), "")


def _says(rate: Rate) -> str:
    last = rate.periods[-1]
    prices = ", ".join(map(_price, last.intervals[:MAX_FIELDS]))
    more = f" and {len(last.intervals) - MAX_FIELDS} more" if len(last.intervals) > MAX_FIELDS else ""
    return f"from {format_rfc3339(last.activation_us)}: {prices}{more}"


def _price(interval: Interval) -> str:
    return f"{format_nanos(interval.price_nanos)}/{format_micros(interval.billing_unit_us)} s"


def _rate_change(was: Rate, now: Rate) -> Difference:
    pairs = list(_changes(was, now))
    more = f" and {len(pairs) - MAX_FIELDS} more" if len(pairs) > MAX_FIELDS else ""
    old, new = (", ".join(pair[side] for pair in pairs[:MAX_FIELDS]) + more for side in (0, 1))
    return Difference(_rate(now.subject, now.prefix), old, new)


def _changes(was: Rate, now: Rate) -> Iterator[tuple[str, str]]:
    if was.tor != now.tor:
        yield f"TOR {was.tor}", f"TOR {now.tor}"
    if was.timezone != now.timezone:
        yield f"Timezone {was.timezone}", f"Timezone {now.timezone}"
    old, new = ({period.activation_us: period for period in rate.periods} for rate in (was, now))
    for activation_us in sorted(old.keys() | new.keys()):
        name = f"period {format_rfc3339(activation_us)}"
        if activation_us not in new:
            yield name, f"no {name}"
        elif activation_us not in old:
            yield f"no {name}", name
        else:
            yield from _interval_changes(old[activation_us].intervals, new[activation_us].intervals)


def _interval_changes(was: tuple[Interval, ...], now: tuple[Interval, ...]) -> Iterator[tuple[str, str]]:
    if len(was) != len(now):
        yield f"{len(was)} intervals", f"{len(now)} intervals"
        return
    for number, (old, new) in enumerate(zip(was, now, strict=True)):
        if old == new:
            continue
        if (
            msgspec.structs.replace(old, price_nanos=new.price_nanos, billing_unit_us=new.billing_unit_us)
            == new
        ):
            yield f"[{number}] {_price(old)}", f"[{number}] {_price(new)}"
        else:
            yield f"[{number}] {_interval(old)}", f"[{number}] {_interval(new)}"


def _interval(interval: Interval) -> str:
    return " ".join(f"{name}={_value(getattr(interval, name))}" for name in interval.__struct_fields__)


def _some(names: frozenset[str]) -> str:
    shown = ", ".join(map(quote, sorted(names)[:MAX_FIELDS]))
    return (shown + (f" and {len(names) - MAX_FIELDS} more" if len(names) > MAX_FIELDS else "")) or "nothing"


def _value(value: object) -> str:
    return quote(value) if isinstance(value, str) else str(msgspec.to_builtins(value))
