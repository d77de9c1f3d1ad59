"""Prometheus' text of what a process has counted: the parts that fronts and raters have in common.

Nothing is counted by the library: its counters take a lock and some microseconds each. A *collector* reads
what the process counts anyway when it is scraped. That may be in a thread beside the work (`serve`): then it
takes copies, each made in one step, and figures of one scrape may be some requests apart.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final
from wsgiref.simple_server import WSGIRequestHandler

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    ProcessCollector,
    generate_latest,
    make_wsgi_app,
)
from prometheus_client import start_http_server as _start
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from common.about import own_version
from common.addresses import Address
from common.histogram import SIZE_BUCKETS, SLOTS, buckets

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST.encode()

Labels = tuple[str, ...]


def counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(name, about, value=value)


def gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value=value)


def counters(name: str, about: str, labels: Labels, rows: Iterable[tuple[Labels, float]]) -> Metric:
    family = CounterMetricFamily(name, about, labels=labels)
    for values, count in rows:
        family.add_metric(values, count)
    return family


def gauges(name: str, about: str, labels: Labels, rows: Iterable[tuple[Labels, float]]) -> Metric:
    family = GaugeMetricFamily(name, about, labels=labels)
    for values, value in dict(rows).items():  # two raters may have one name, two series may not
        family.add_metric(values, value)
    return family


def durations(
    name: str, about: str, labels: Labels, rows: Iterable[tuple[Labels, Sequence[int], int]]
) -> Metric:
    """Rows of label values, counts as in `common.histogram`, and their sum in microseconds."""
    family = HistogramMetricFamily(name, about, labels=labels)
    for values, counts, sum_us in rows:
        bounds = [(str(bound_us / 1e6), float(count)) for bound_us, count in buckets(counts)]
        family.add_metric(values, [*bounds, ("+Inf", sum(counts[:SLOTS]))], sum_us / 1e6)
    return family


def sizes(name: str, about: str, counts: Sequence[int], total: int) -> Metric:
    """Batches by size, counted by `size_index`; `total` requests were in them."""
    passed = 0
    bounds = []
    for bound, count in zip(SIZE_BUCKETS[:-1], counts[:-1], strict=True):
        passed += count
        bounds.append((str(float(bound)), float(passed)))
    return HistogramMetricFamily(name, about, buckets=[*bounds, ("+Inf", sum(counts))], sum_value=total)


def build(kind: str) -> Metric:
    labels = ("kind", "version")
    return gauges("ratel_build_info", "What runs here: always 1.", labels, [((kind, own_version()), 1)])


class _Collector(Collector):
    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return self._collect()

    def describe(self) -> Iterable[Metric]:
        return ()  # so that registering does not collect


def registry(collect: Callable[[], Iterator[Metric]]) -> CollectorRegistry:
    """What `collect` yields at each scrape, and the process' memory, processor time and descriptors."""
    found = CollectorRegistry()
    found.register(_Collector(collect))
    ProcessCollector(registry=found)
    return found


def text(of: CollectorRegistry) -> bytes:
    return generate_latest(of)


def serve(address: Address, of: CollectorRegistry) -> Address:
    """Serve scrapes from a thread, until the process ends. The address with its port. Raises OSError."""
    server, _ = _start(address.port, address.host, of)
    return address._replace(port=server.server_port)


def serve_on(listener: socket.socket, of: CollectorRegistry) -> Address:
    """The same on a socket that listens already, and that a successor of this process may have as well."""
    host, port = listener.getsockname()[:2]
    server = ThreadingWSGIServer((host, port), _Quiet, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.server_address = server.server_name, server.server_port = host, port
    server.setup_environ()
    server.set_app(make_wsgi_app(of))
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return Address(host, port)


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """A scrape is nothing to tell of."""
