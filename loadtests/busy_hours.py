"""A second `-f` for locust, beside `loadtests/locustfile.py`: users come and go as in a day."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from loadtests.calls.shape import BusyHours

__all__ = ["BusyHours"]
