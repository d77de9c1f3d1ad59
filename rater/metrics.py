"""What a rater tells Prometheus: see docs/monitoring.md for what each figure is good for.

Scrapes are answered by a thread of their own (`common.metrics.serve`), which reads and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from common import metrics
from common.clock import monotonic_us
from common.metrics import counter, counters, durations, gauge, gauges
from common.outcomes import outcome_name
from rater.worker import Worker


def registry(worker: Worker) -> CollectorRegistry:
    return metrics.registry(lambda: _collect(worker))


def _collect(worker: Worker) -> Iterator[Metric]:
    yield metrics.build("rater")
    yield from _work(worker)
    yield from _store(worker)
    snapshot, now_us = worker.snapshot, monotonic_us()
    yield gauge("ratel_rater_tariff_epoch", "Which state of all tariffs it rates by.", snapshot.epoch)
    yield gauges(
        "ratel_rater_tariff_version",
        "The version of a tenant's tariff that it rates by.",
        ("tenant",),
        [((tenant,), version) for tenant, version in snapshot.versions.items()],
    )
    yield gauges(
        "ratel_rater_balancer_heartbeat_age_seconds",
        "Since the balancer was last heard, if ever.",
        ("balancer",),
        [((link.endpoint,), (now_us - link.seen_us) / 1e6) for link in worker.links if link.seen_us],
    )


def _work(worker: Worker) -> Iterator[Metric]:
    telemetry = worker.telemetry
    yield counters(
        "ratel_rater_requests",
        "Answers, by method and outcome: ok, or the name of the error.",
        ("method", "outcome"),
        [((method, outcome_name(code)), count) for (method, code), count in list(telemetry.outcomes.items())],
    )
    yield counter("ratel_rater_replays", "Answers that were those of an earlier request.", telemetry.replays)
    yield counter(
        "ratel_rater_undecided",
        "Times that a request had to be tried again: the store was away, or no time was left.",
        telemetry.undecided,
    )
    yield durations(
        "ratel_rater_batch_duration_seconds",
        "From the beginning of a batch to its answers.",
        (),
        [((), telemetry.batches.counts.copy(), telemetry.batches.sum_us)],
    )
    yield metrics.sizes(
        "ratel_rater_batch_size", "Requests in each batch.", telemetry.sizes.copy(), telemetry.requests
    )
    yield gauge("ratel_rater_backlog_requests", "Requests that wait in here.", worker.backlog)
    yield counter("ratel_rater_busy_seconds", "How long there was something to do.", telemetry.busy_us / 1e6)


def _store(worker: Worker) -> Iterator[Metric]:
    store, trips = worker.store_health(), worker.store_trips
    yield durations(
        "ratel_rater_store_round_trip_seconds",
        "From sending a batch of commands to the last reply.",
        (),
        [((), trips.counts.copy(), trips.sum_us)],
    )
    yield counters(
        "ratel_rater_store_failures",
        "Times that the store failed this rater: no answer, no connection, or the word that it refused with.",
        ("kind",),
        [((kind,), count) for kind, count in list(worker.store_failures.items())],
    )
    yield gauge("ratel_rater_store_up", "1 while the store answers.", store.ok)
    yield gauge("ratel_rater_store_used_memory_bytes", "What the store says that it uses.", store.used_memory)
    yield gauge("ratel_rater_store_max_memory_bytes", "Its limit; 0 is none.", store.max_memory)
    nodes = [((node.address,), node) for node in store.nodes]
    yield gauges(
        "ratel_rater_store_node_up",
        "Of a cluster: 1 while this primary answers.",
        ("node",),
        [(label, node.ok) for label, node in nodes],
    )
    yield gauges(
        "ratel_rater_store_node_used_memory_bytes",
        "What it says that it uses.",
        ("node",),
        [(label, node.used_memory) for label, node in nodes],
    )
    yield gauges(
        "ratel_rater_store_node_max_memory_bytes",
        "Its limit; 0 is none.",
        ("node",),
        [(label, node.max_memory) for label, node in nodes],
    )
    yield gauges(
        "ratel_rater_store_node_replicas",
        "That are connected to it.",
        ("node",),
        [(label, node.replicas) for label, node in nodes],
    )
