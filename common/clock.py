"""The clock that deadlines, heartbeats and pauses are measured with: it never steps."""

from __future__ import annotations

import time


def monotonic_us() -> int:
    """Microseconds since some moment; only differences mean something, and only in one process."""
    return time.monotonic_ns() // 1000
