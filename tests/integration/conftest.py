"""What integration tests share: one real store for the session, empty at the start of each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from common.embedded_store import EmbeddedStore
from common.store import StoreConnection

STORE_TIMEOUT_MS = 20_000
"""Generous: the machine that runs the tests may be busy with something else."""


@pytest.fixture(scope="session")
def store_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    """A running store; tests that kill or stop one start their own."""
    with EmbeddedStore(tmp_path_factory.mktemp("store"), appendfsync="no") as server:
        yield server


@pytest.fixture
def store(store_server: EmbeddedStore) -> Iterator[StoreConnection]:
    """A connection to the session's store, which is empty."""
    with StoreConnection(store_server.url, timeout_ms=STORE_TIMEOUT_MS) as connection:
        assert connection.execute([("FLUSHALL", "SYNC")]) == [b"OK"]
        yield connection
