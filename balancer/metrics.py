"""What a front tells Prometheus: see docs/monitoring.md for what each figure is good for."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from balancer.router import Router
from balancer.status import STATES, state_of
from common import metrics
from common.clock import monotonic_us
from common.metrics import counter, counters, durations, gauge, gauges


def registry(router: Router) -> CollectorRegistry:
    return metrics.registry(lambda: _collect(router))


def _collect(router: Router) -> Iterator[Metric]:
    yield metrics.build("front")
    yield from _requests(router)
    yield from _queue(router)
    yield from _raters(router)


def _requests(router: Router) -> Iterator[Metric]:
    telemetry = router.telemetry
    methods = list(telemetry.methods.items())
    yield counters(
        "ratel_front_requests",
        "Answers, by method and outcome: ok, or the name of the error.",
        ("method", "outcome"),
        [
            ((name, outcome), count)
            for name, totals in methods
            for outcome, count in totals.outcomes().items()
        ],
    )
    yield durations(
        "ratel_front_request_duration_seconds",
        "From a request's arrival to its answer, without those that were refused at once.",
        ("method",),
        [((name,), totals.counts.copy(), totals.sum_us) for name, totals in methods],
    )
    yield counters(
        "ratel_front_replays",
        "Answers that were those of an earlier request under the same key.",
        ("method",),
        [((name,), totals.replays) for name, totals in methods],
    )
    yield counter(
        "ratel_front_turned_away",
        "HTTP requests refused for overload before they were read; they count as requests, too.",
        telemetry.turned_away,
    )
    yield counters(
        "ratel_front_refused",
        "What was answered with an error and never became a request, by the error's name.",
        ("reason",),
        [((reason,), count) for reason, count in list(router.refused.items())],
    )


def _queue(router: Router) -> Iterator[Metric]:
    telemetry, dispatch = router.telemetry, router.dispatch
    yield metrics.sizes(
        "ratel_front_work_batch_size",
        "Requests in each message to a rater.",
        telemetry.sizes.copy(),
        telemetry.items,
    )
    yield counter(
        "ratel_front_second_copies",
        "Requests sent to another rater too, as the first one was late.",
        dispatch.copies,
    )
    yield counter(
        "ratel_front_repeats",
        "Requests back in the queue, as their rater left, died or fell silent.",
        dispatch.repeats,
    )
    yield gauge("ratel_front_requests_waiting", "Requests that no rater has yet.", dispatch.waiting)
    yield gauge("ratel_front_requests_present", "Requests waiting and in flight.", dispatch.present)
    yield gauge(
        "ratel_front_queued_bytes", "Parameters of the requests that are here.", dispatch.queued_bytes
    )
    yield gauge("ratel_front_room", "With so many requests here, one more is refused.", dispatch.room)
    yield gauge("ratel_front_overloaded", "1 while more is asked than raters can do.", dispatch.overloaded)


def _raters(router: Router) -> Iterator[Metric]:
    now_us, abouts = monotonic_us(), router.telemetry.abouts
    raters = [(rater, abouts.get(rater.id)) for rater in list(router.dispatch.raters)]
    each = ("rater",)
    states = {rater: state_of(rater, about) for rater, about in raters}
    yield gauges(
        "ratel_front_raters",
        "Raters by state (of a gateway: balancers).",
        ("state",),
        [((state,), list(states.values()).count(state)) for state in STATES],
    )
    yield gauges(
        "ratel_front_rater_in_flight",
        "Requests that it has.",
        each,
        [((rater.name,), rater.in_flight) for rater, _ in raters],
    )
    yield gauges(
        "ratel_front_rater_credit",
        "Requests that it takes at a time.",
        each,
        [((rater.name,), rater.credit) for rater, _ in raters],
    )
    yield gauges(
        "ratel_front_rater_heartbeat_age_seconds",
        "Since it was last heard.",
        each,
        [((rater.name,), max(0, now_us - rater.seen_us) / 1e6) for rater, _ in raters],
    )
    yield gauges(
        "ratel_front_rater_tariff_epoch",
        "Which state of all tariffs it rates by.",
        each,
        [((rater.name,), rater.tariff_epoch) for rater, _ in raters],
    )
    yield gauges(
        "ratel_front_rater_busy_ratio",
        "The share of the last second in which it worked.",
        each,
        [((rater.name,), about.busy) for rater, about in raters if about],
    )
    yield gauges(
        "ratel_front_rater_info",
        "Its version: always 1.",
        ("rater", "version"),
        [((rater.name, about.version), 1) for rater, about in raters if about],
    )
    stores = [(rater, about.store) for rater, about in raters if about and about.store]
    yield gauges(
        "ratel_front_rater_store_up",
        "1 while the store answers it.",
        each,
        [((rater.name,), store.ok) for rater, store in stores],
    )
    yield gauges(
        "ratel_front_tariff_version",
        "The newest version of a tenant's tariff that some rater has.",
        ("tenant",),
        [((tenant,), version) for tenant, version in router.telemetry.tariffs().items()],
    )
