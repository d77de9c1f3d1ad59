"""What the micro-benchmarks work on: a tariff, and requests like those of the big benchmark.

A round works through `ROUND` different requests, so the milliseconds of the table are microseconds a request.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from common.methods import BY_NAME
from loadtests.bench.requests import Request, encode_rpc, make_requests, number_of
from loadtests.bench.tariff import ON_NET, TENANT, World, peak_price, prefix
from rater.descriptor_reader import parse_descriptor
from rater.model import ActivationPeriod, Destination, Interval, Plan, Rate, Tariff, Threshold
from rater.rating.snapshot import CompiledTariff, compile_tariff

ROUND: Final = 1000
WORLD: Final = World(accounts=1000, prefixes=1000)

SECOND: Final = 1_000_000
DAY_S: Final = 86_400
MAX_CALL_US: Final = 31 * DAY_S * SECOND
_SINCE_US: Final = 1_325_376_000 * SECOND  # 2012
_WORK: Final = (1, 2, 3, 4, 5)


def _interval(nanos: int, days: tuple[int, ...], start_s: int, end_s: int, increment_s: int) -> Interval:
    return Interval(0, 0, days, start_s, end_s, 0, 0, nanos, 60 * SECOND, increment_s * SECOND)


def _rate(number: int, zone: str, increment_s: int) -> Rate:
    peak = peak_price(number) * 60_000_000
    intervals = (
        _interval(peak // 2, _WORK, 0, 8 * 3600, increment_s),
        _interval(peak, _WORK, 8 * 3600, 20 * 3600, increment_s),
        _interval(peak // 2, _WORK, 20 * 3600, DAY_S, increment_s),
        _interval(peak // 2, (0, 6), 0, DAY_S, increment_s),
    )
    return Rate(0, "*any", prefix(number), zone, (ActivationPeriod(_SINCE_US, intervals),))


def tariff(zone: str = "UTC", increment_s: int = 0) -> CompiledTariff:
    """The big benchmark's tariff, with a discount to be reached."""
    return compile_tariff(
        Tariff(
            TENANT,
            tuple(_rate(number, zone, increment_s) for number in range(WORLD.prefixes)),
            (Destination("on-net", (ON_NET,)), Destination("all", ("0",))),
            (Plan("discount", thresholds=(Threshold(100 * SECOND, 12_500_000),)),),
        ),
        MAX_CALL_US,
    )


def params(request: Request) -> bytes:
    return json.dumps(request.descriptor, separators=(",", ":")).encode()


def requests(workload: str) -> list[Request]:
    return make_requests(workload, ROUND, WORLD)


def descriptors(workload: str, **changes: str) -> list[Any]:
    """Read ones. `changes` replace fields of all of them."""
    return [
        parse_descriptor(
            params(each._replace(descriptor=each.descriptor | changes)),
            BY_NAME[each.method],
        )
        for each in requests(workload)
    ]


def rpc_messages(workload: str) -> list[bytes]:
    return [encode_rpc(each, number_of(place)) for place, each in enumerate(requests(workload))]


def for_each(work: Callable[[Any], object], inputs: Sequence[Any]) -> Callable[[], None]:
    """One round."""

    def run() -> None:
        for each in inputs:
            work(each)

    return run
