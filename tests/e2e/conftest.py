"""Clusters for the tests: one that many share, and as many as a test wants for itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import SAMPLE_TARIFF, Cluster, StartCluster, is_free


@pytest.fixture
def start_cluster(tmp_path: Path) -> Iterator[StartCluster]:
    """Start clusters that are stopped, with exit code 0, when the test ends."""
    started: list[Cluster] = []

    def start(*args: str, data: Path = tmp_path / "data", ports: tuple[int, int, int] = (0, 0, 0)) -> Cluster:
        cluster = Cluster(data, *args, ports=ports)
        started.append(cluster)
        cluster.wait_ready()
        return cluster

    yield start
    for cluster in started:
        cluster.stop()


@pytest.fixture(scope="session")
def sample_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with the sample tariff, on the ports of the API's examples where these are free.

    Of the processes that run tests side by side only the first one takes those ports.
    """
    usual = (2001, 8000, 2000)
    first = os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0"
    ports = usual if first and all(map(is_free, usual)) else (0, 0, 0)
    cluster = Cluster(
        tmp_path_factory.mktemp("sample") / "data",
        "--load",
        str(SAMPLE_TARIFF),
        "--tenant",
        "vdf",
        ports=ports,
    )
    try:
        cluster.wait_ready()
        yield cluster
    finally:
        cluster.stop()
