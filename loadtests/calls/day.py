"""How many users there are over a day: quiet at night, busy hours in the morning and in the evening. Pure.

The profile is the shape that voice traffic has with most carriers, in tenths of the busiest hour.
"""

from __future__ import annotations

from typing import Final

TENTHS_BY_HOUR: Final = (2, 1, 1, 1, 1, 2, 3, 5, 8, 10, 10, 9, 8, 8, 8, 9, 9, 9, 10, 9, 8, 6, 4, 3)
"""From midnight on."""


def users_at(second: float, day_s: float, peak: int) -> int:
    """How many of `peak` users there are, between the hours in proportion; at least one."""
    hour = second / day_s * len(TENTHS_BY_HOUR)
    before = int(hour) % len(TENTHS_BY_HOUR)
    after = (before + 1) % len(TENTHS_BY_HOUR)
    share = hour - int(hour)
    tenths = TENTHS_BY_HOUR[before] * (1 - share) + TENTHS_BY_HOUR[after] * share
    return max(1, round(peak * tenths / 10))
