"""What the operating system lets one process have, and how often it looks for garbage."""

from __future__ import annotations

import contextlib
import gc
import resource
from typing import Final

GC_THRESHOLDS: Final = (50_000, 20, 100)
"""A busy balancer or rater makes many objects and no cycles: looking for those every 700 objects costs the
one 10 % of its time, the other 5 %."""


def collect_rarely() -> None:
    gc.set_threshold(*GC_THRESHOLDS)


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one; what it is now.

    Every connection is a file, and the usual limit of 1,024 is below the bounds of the gateways.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
