"""What the operating system lets one process have."""

from __future__ import annotations

import contextlib
import resource


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one; what it is now.

    Every connection is a file, and the usual limit of 1,024 is below the bounds of the gateways.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
