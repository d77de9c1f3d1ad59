"""The store that a URL names: one server, a group with sentinels, or a cluster. Commands and raters begin
here."""

from __future__ import annotations

from common.storage.cluster import ClusterConnection
from common.storage.cluster_map import SCHEMES
from common.storage.store import DEFAULT_TIMEOUT_MS, StoreConnection

Store = StoreConnection | ClusterConnection


def connect(url: str, *, timeout_ms: int = DEFAULT_TIMEOUT_MS, patience_ms: int | None = None) -> Store:
    """A connection that is made on first use. `patience_ms` is for clusters, see there. Raises
    StoreUrlError."""
    if url.startswith(SCHEMES):
        return ClusterConnection(url, timeout_ms=timeout_ms, patience_ms=patience_ms)
    return StoreConnection(url, timeout_ms=timeout_ms)
