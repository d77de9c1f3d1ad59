"""Whether the hot path is machine code here (`deploy/compile.py`), or the Python that it is written in."""

from __future__ import annotations

from importlib.machinery import SOURCE_SUFFIXES
from importlib.util import find_spec


def is_compiled() -> bool:
    spec = find_spec("common.clock")  # as good as any of them, and the first
    return spec is not None and not str(spec.origin).endswith(tuple(SOURCE_SUFFIXES))
