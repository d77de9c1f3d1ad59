"""How a front does, as one JSON object: what the status page, `ratel status` and `ratel top` show.

    GET /status.json            the object; with ?history=1 also the last five minutes, second by second
    GET /events                 the object as server-sent events, one a second, each with its own second

Source: docs/monitoring.md.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any, Final

from msgspec.structs import asdict

from balancer.actions import Rater
from balancer.router import Router
from balancer.telemetry import SECOND_US, WINDOW_S, Interval, Second, Totals, latency_us, together
from common.about import About, own_version
from common.clock import monotonic_us

HOST: Final = socket.gethostname()
_TAIL_SHARES: Final[tuple[float, ...]] = (0.5, 0.99)

Json = dict[str, Any]

STATES: Final = ("working", "leaving", "silent", "no store", "no tariff")
"""Of a rater."""


def describe(router: Router, *, draining: bool, history: bool = False) -> Json:
    now_us = monotonic_us()
    telemetry, dispatch = router.telemetry, router.dispatch
    recent = telemetry.recent()
    methods = {
        name: _figures(recent, recent.methods.get(name), [totals])
        for name, totals in sorted(telemetry.methods.items())
    }
    raters = sorted(dispatch.raters, key=lambda rater: rater.name)
    status: Json = {
        "name": f"{HOST}-{router.id[:4]}",
        "version": own_version(),
        "uptime_s": (now_us - telemetry.started_us) / SECOND_US,
        "now": _rfc3339(time.time()),
        "draining": draining,
        "window_s": WINDOW_S,
        "methods": methods,
        "all": _figures(recent, together(recent.methods.values()), list(telemetry.methods.values())),
        "queue": {
            "unanswered": dispatch.unanswered,
            "waiting": dispatch.waiting,
            "bytes": dispatch.queued_bytes,
            "room": dispatch.room,
            "overloaded": dispatch.overloaded,
            "turned_away": telemetry.turned_away,
        },
        "raters": [_rater(rater, telemetry.abouts.get(rater.id), now_us) for rater in raters],
        "tariffs": telemetry.tariffs(),
    }
    if history:
        status["history"] = [seconds_row(interval) for interval in telemetry.history]
    return status


def _rfc3339(now_s: float) -> str:
    return datetime.fromtimestamp(now_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_row(interval: Interval) -> Json:
    """An interval as it stands in `history`."""
    return {
        "methods": {name: _row(second) for name, second in interval.methods.items()},
        "all": _row(together(interval.methods.values())),
    }


def _row(second: Second) -> list[int]:
    return [second.answers, second.errors, *latency_us(second, _TAIL_SHARES)]


def _figures(recent: Interval, second: Second | None, totals: list[Totals]) -> Json:
    span_s = recent.span_us / SECOND_US
    second = second or together([])
    p50_us, p90_us, p99_us = latency_us(second)
    outcomes: Counter[str] = Counter()
    for each in totals:
        outcomes.update(each.outcomes())
    return {
        "answers_per_s": round(second.answers / span_s, 2),
        "errors_per_s": round(second.errors / span_s, 2),
        "p50_us": p50_us,
        "p90_us": p90_us,
        "p99_us": p99_us,
        "total": sum(each.answers for each in totals),
        "replays": sum(each.replays for each in totals),
        "outcomes": dict(outcomes),
    }


def _rater(rater: Rater, about: About | None, now_us: int) -> Json:
    said = about or About()
    store = said.store
    return {
        "name": rater.name,
        "state": state_of(rater, about),
        "credit": rater.credit,
        "in_flight": rater.in_flight,
        "busy": round(said.busy, 3),
        "speed_per_s": round(rater.speed_per_s),
        "tariff_epoch": rater.tariff_epoch,
        "seen_ms_ago": max(0, now_us - rater.seen_us) // 1000,
        "version": said.version,
        "store": None
        if store is None
        else {
            "ok": store.ok,
            "url": store.url,
            "used_memory": store.used_memory,
            "max_memory": store.max_memory,
            "round_trip_us": store.round_trip_us,
            "nodes": [asdict(node) for node in store.nodes],
        },
    }


def state_of(rater: Rater, about: About | None) -> str:
    """One word for why it gets work or not, the gravest reason first."""
    if rater.leaving:
        return "leaving"
    if rater.silent:
        return "silent"
    store_is_away = about is not None and about.store is not None and not about.store.ok
    if store_is_away or (rater.credit <= 0 and rater.tariff_epoch > 0):
        return "no store"
    return "working" if rater.tariff_epoch > 0 else "no tariff"
